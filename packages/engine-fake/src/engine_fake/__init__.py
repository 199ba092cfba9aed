"""An engine of known speed: scripted tokens and delays, and misbehaviour on request."""

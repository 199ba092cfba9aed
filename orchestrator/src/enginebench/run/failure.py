"""What ended a launch before its time, as a record: a closed set of reasons, from what was raised and how it exited."""

from __future__ import annotations

from enginebench_protocol.errors import DeadlineExceeded, EngineFailure, FrameError, StreamClosed

from enginebench.store.record import Failure, FailureReason

from .answer import WrongOutput


def failure_of(error: Exception, stage: str, exit_code: int | None, stderr_tail: list[str]) -> Failure:
    hint = detail = ""
    reason: FailureReason
    message = str(error)
    signal_number = -exit_code if exit_code is not None and exit_code < 0 else None
    match error:
        case EngineFailure():
            message, hint, detail = f"{error.code}: {error.message}", error.hint, error.detail
            match error.code:
                case "out-of-memory":
                    reason = "out-of-memory"
                case "unsupported":
                    reason, message = "unsupported", error.message
                case _:
                    reason = "engine-failure"
        case WrongOutput():
            reason = "wrong-output"
        case DeadlineExceeded():
            reason = "hello-timeout" if stage == "hello" else "hang"
        case StreamClosed() | FrameError() if signal_number is not None:
            reason, message = "signal", f"killed by signal {signal_number}"
        case StreamClosed():
            reason, message = "exit", f"exited with code {exit_code}"
        case _:
            reason = "protocol-error"
    return Failure(
        reason=reason,
        message=message,
        hint=hint,
        detail=detail,
        stage=stage,
        exit_code=exit_code if exit_code is not None and exit_code >= 0 else None,
        signal=signal_number,
        stderr_tail=stderr_tail,
    )

// NF4 matrices on a processor: the product with one row, and the way back to float32 for products with many.
//
// A run of 64 weights is 8 words of 32 bits: weight 8n + j is nibble n of word j. 16 neighbours are then two nibbles of
// all words, and 16 levels are one vector register: AVX-512 looks 16 of them up in one instruction, which no compiler
// makes of a table. Built by processor_kernels.py; `threads` is OpenMP's, as in torch itself.

#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float floats __attribute__((vector_size(64)));
static const long RUN = 64, RUN_BYTES = 32, LANES = 16;

// Levels of the weights 16k to 16k + 15 of a run.
static inline floats levels_of(const uint8_t *run, int k, const float *levels) {
#ifdef __AVX512F__
  const __m512i nibbles = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4);
  const __m512i words = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)run));
  const __m512i codes = _mm512_srlv_epi32(words, _mm512_add_epi32(nibbles, _mm512_set1_epi32(8 * k)));
  return (floats)_mm512_permutexvar_ps(codes, _mm512_loadu_ps(levels));  // looks at 4 bits of each code only
#else
  uint32_t words[8];
  memcpy(words, run, RUN_BYTES);
  floats found;
  for (int i = 0; i < LANES; i++) found[i] = levels[words[i % 8] >> (8 * k + 4 * (i / 8)) & 15];
  return found;
#endif
}

// float16 without a sign: its exponent counts from 15, that of float32 from 127.
static inline float peak_of(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 13;
  float small;
  memcpy(&small, &bits, 4);
  return small * 0x1p112f;
}

// y [n_out] = W [n_out, n_in] x [n_in]
extern "C" void nf4_row(const uint8_t *packed, const uint16_t *peaks, const float *levels, const float *x, float *y,
                        long n_out, long n_in) {
  const long runs = n_in / RUN;
#pragma omp parallel for schedule(static)
  for (long row = 0; row < n_out; row++) {
    floats total = {};
    for (long run = row * runs; run < (row + 1) * runs; run++) {
      const float *begin = x + (run - row * runs) * RUN;
      floats sum = {};
      for (int k = 0; k < 4; k++) {
        floats part;
        memcpy(&part, begin + LANES * k, sizeof part);
        sum += levels_of(packed + run * RUN_BYTES, k, levels) * part;
      }
      total += sum * peak_of(peaks[run]);
    }
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += total[i];
    y[row] = sum;
  }
}

// y [n_runs · 64]
extern "C" void nf4_widen(const uint8_t *packed, const uint16_t *peaks, const float *levels, float *y, long n_runs) {
#pragma omp parallel for schedule(static)
  for (long run = 0; run < n_runs; run++) {
    for (int k = 0; k < 4; k++) {
      const floats values = levels_of(packed + run * RUN_BYTES, k, levels) * peak_of(peaks[run]);
      memcpy(y + run * RUN + LANES * k, &values, sizeof values);
    }
  }
}

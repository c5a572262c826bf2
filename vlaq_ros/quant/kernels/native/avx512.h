// What AVX512-VNNI and AMX share: codes out of the nibble planes, 64 at a time.
#pragma once

#include <immintrin.h>

#include "tiles.h"

namespace vlaq {
namespace {  // each file is compiled for its own instruction set: nothing here may be merged by the linker

constexpr int kVector = 64;  // bytes: 4 features of each of the 16 rows of a tile

struct Codes {
  __m512i first, second;  // features 4 g + i and 32 + 4 g + i of a block
};

template <bool kBytes>
inline Codes unpack(const uint8_t* hi, const uint8_t* lo) {
  const __m512i high = _mm512_loadu_si512(hi);
  if constexpr (kBytes) {
    const __m512i low = _mm512_loadu_si512(lo), mask = _mm512_set1_epi8(static_cast<char>(0xf0));
    constexpr int kSelect = 0xca;  // mask ? b : c; the bits that a 16-bit shift brings from the next byte are not taken
    return {_mm512_ternarylogic_epi32(mask, high, _mm512_srli_epi16(low, 4), kSelect),
            _mm512_ternarylogic_epi32(mask, _mm512_slli_epi16(high, 4), low, kSelect)};
  } else {
    const __m512i mask = _mm512_set1_epi8(0x0f);
    return {_mm512_and_si512(_mm512_srli_epi16(high, 4), mask), _mm512_and_si512(high, mask)};
  }
}

}  // namespace
}  // namespace vlaq

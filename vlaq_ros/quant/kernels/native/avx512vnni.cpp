// AVX512-VNNI: VPDPBUSD multiplies unsigned codes by signed activations, four at a time, and does not saturate.
#include <array>
#include <cstring>
#include <utility>

#include "avx512.h"

namespace vlaq {
namespace {

constexpr int kMaxRows = 12;     // times two tiles: 24 accumulators, four registers of codes, activations, masks
constexpr int kPrefetch = 2048;  // bytes ahead in every plane: about what memory delivers during its own latency

inline __m512i broadcast(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}

inline void prefetch(const uint8_t* address) { _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0); }

// kRows rows of activations by kTiles tiles. Few accumulators are split into chains, because VPDPBUSD takes five cycles
// and two may start in each.
template <bool kBytes, int kTiles, int kRows>
void multiply(const int8_t* x, int64_t ldx, const uint8_t* hi, const uint8_t* lo, int64_t blocks, int32_t* acc,
              int64_t acc_tile) {
  constexpr int kChains = kTiles * kRows >= 8 ? 1 : kTiles * kRows >= 4 ? 2 : 4;
  const int64_t plane = blocks * kBlockBytes;
  __m512i sum[kChains][kTiles][kRows];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c)
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) sum[c][t][r] = _mm512_setzero_si512();

  for (int64_t b = 0; b < blocks; ++b, x += kBlock / 2) {
    for (int g = 0; g < kBlockBytes; g += kChains * kVector) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c, x += 4, hi += kVector) {
        Codes codes[kTiles];
#pragma GCC unroll 2
        for (int t = 0; t < kTiles; ++t) {
          const uint8_t *high = hi + t * plane, *low = kBytes ? lo + t * plane : nullptr;
          codes[t] = unpack<kBytes>(high, low);
          prefetch(high + kPrefetch);
          if constexpr (kBytes) prefetch(low + kPrefetch);
        }
        if constexpr (kBytes) lo += kVector;
#pragma GCC unroll 12
        for (int r = 0; r < kRows; ++r) {
          const __m512i first = broadcast(x + r * ldx), second = broadcast(x + r * ldx + kBlock / 2);
#pragma GCC unroll 2
          for (int t = 0; t < kTiles; ++t) {
            sum[c][t][r] = _mm512_dpbusd_epi32(sum[c][t][r], codes[t].first, first);
            sum[c][t][r] = _mm512_dpbusd_epi32(sum[c][t][r], codes[t].second, second);
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t)
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 1; c < kChains; ++c) sum[0][t][r] = _mm512_add_epi32(sum[0][t][r], sum[c][t][r]);
      _mm512_storeu_si512(acc + t * acc_tile + r * kTileRows, sum[0][t][r]);
    }
}

template <bool kBytes, int kTiles, int... kRow>
constexpr auto for_rows(std::integer_sequence<int, kRow...>) {
  return std::array{multiply<kBytes, kTiles, kRow + 1>...};
}

template <bool kBytes, int kTiles>
void strip(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int64_t blocks, int32_t* acc) {
  static constexpr auto kMultiply = for_rows<kBytes, kTiles>(std::make_integer_sequence<int, kMaxRows>());
  const int parts = (m + kMaxRows - 1) / kMaxRows;  // as equal as can be: 13 rows are 7 and 6
  for (int part = 0, r = 0; part < parts; ++part) {
    const int rows = m / parts + (part < m % parts);
    kMultiply[rows - 1](x + r * ldx, ldx, hi, lo, blocks, acc + r * kTileRows, int64_t{m} * kTileRows);
    r += rows;
  }
}

template <bool kBytes>
void panel(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
           int32_t* acc) {
  for (int t = 0; t < tiles; t += 2) {
    const int64_t plane = t * blocks * kBlockBytes;
    const auto part = t + 1 < tiles ? strip<kBytes, 2> : strip<kBytes, 1>;
    part(x, ldx, m, hi + plane, kBytes ? lo + plane : nullptr, blocks, acc + int64_t{t} * m * kTileRows);
  }
}

}  // namespace

void panel_avx512vnni(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles,
                      int64_t blocks, int32_t* acc) {
  const auto whole = lo ? panel<true> : panel<false>;
  whole(x, ldx, m, hi, lo, tiles, blocks, acc);
}

}  // namespace vlaq

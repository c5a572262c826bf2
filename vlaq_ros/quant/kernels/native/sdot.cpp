// aarch64: SDOT multiplies four signed codes by four signed activations. It needs the dot product extension alone: the
// Cortex-A78AE of Jetson Orin has no I8MM.
//
// 8-bit codes become signed by flipping their top bit; the 128 that every code loses comes back as 128 sum(x).
#include <arm_neon.h>

#include <algorithm>
#include <type_traits>

#include "tiles.h"

#pragma GCC optimize("no-schedule-insns")  // GCC would move loads so far up that the sums leave their registers

namespace vlaq {
namespace {

constexpr int kVector = 16;      // bytes: 4 features of 4 rows of a tile
constexpr int kQuads = 4;        // vectors that make 16 rows
constexpr int kMaxRows = 4;      // times four quads: 16 accumulators, 8 registers of activations, codes, masks
constexpr int kMaxBlocks = 16;   // unpacked at a time: 16 KB, which stay in L1
constexpr int kPrefetch = 1024;  // bytes ahead in every plane

struct Codes {
  int8x16_t first, second;  // features 4 g + i and 32 + 4 g + i of a block
};

// The three sources of codes: one plane, both planes, or what was unpacked from either.
struct Nibbles {
  const uint8_t* hi;

  void prefetch(int64_t byte) const { __builtin_prefetch(hi + byte + kPrefetch); }

  Codes operator[](int64_t byte) const {
    const uint8x16_t high = vld1q_u8(hi + byte);
    return {vreinterpretq_s8_u8(vshrq_n_u8(high, 4)), vreinterpretq_s8_u8(vandq_u8(high, vdupq_n_u8(0x0f)))};
  }
};

struct Bytes {
  const uint8_t *hi, *lo;

  void prefetch(int64_t byte) const {
    __builtin_prefetch(hi + byte + kPrefetch);
    __builtin_prefetch(lo + byte + kPrefetch);
  }

  Codes operator[](int64_t byte) const {
    const uint8x16_t high = veorq_u8(vld1q_u8(hi + byte), vdupq_n_u8(0x88)), low = vld1q_u8(lo + byte);
    return {vreinterpretq_s8_u8(vsriq_n_u8(high, low, 4)), vreinterpretq_s8_u8(vsliq_n_u8(low, high, 4))};
  }
};

struct Unpacked {
  const int8_t* codes;

  void prefetch(int64_t) const {}

  Codes operator[](int64_t byte) const { return {vld1q_s8(codes + 2 * byte), vld1q_s8(codes + 2 * byte + kVector)}; }
};

inline int32_t sum(const int8_t* x, int64_t count) {
  int32x4_t total = vdupq_n_s32(0);
  for (int64_t k = 0; k < count; k += kVector) total = vdotq_s32(total, vld1q_s8(x + k), vdupq_n_s8(1));
  return vaddvq_s32(total);
}

// Adds kRows rows of activations times a tile to acc.
template <int kRows, class Source>
void multiply(const int8_t* x, int64_t ldx, Source source, int64_t blocks, int32_t* acc) {
  int32x4_t sums[kRows][kQuads];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int q = 0; q < kQuads; ++q) sums[r][q] = vld1q_s32(acc + r * kTileRows + 4 * q);

  int64_t byte = 0;
  for (int64_t b = 0; b < blocks; ++b, x += kBlock / 2) {
    for (int half = 0; half < 2; ++half, x += kVector) {
      int8x16_t first[kRows], second[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        first[r] = vld1q_s8(x + r * ldx);
        second[r] = vld1q_s8(x + r * ldx + kBlock / 2);
      }
      const auto add = [&](auto lane) {  // four features of either
        source.prefetch(byte);
#pragma GCC unroll 4
        for (int q = 0; q < kQuads; ++q, byte += kVector) {
          const Codes codes = source[byte];
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            sums[r][q] = vdotq_laneq_s32(sums[r][q], codes.first, first[r], lane());
            sums[r][q] = vdotq_laneq_s32(sums[r][q], codes.second, second[r], lane());
          }
        }
      };
      add(std::integral_constant<int, 0>());
      add(std::integral_constant<int, 1>());
      add(std::integral_constant<int, 2>());
      add(std::integral_constant<int, 3>());
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int q = 0; q < kQuads; ++q) vst1q_s32(acc + r * kTileRows + 4 * q, sums[r][q]);
}

template <class Source>
void rows(const int8_t* x, int64_t ldx, int m, Source source, int64_t blocks, int32_t* acc) {
  constexpr decltype(&multiply<1, Source>) kMultiply[] = {multiply<1, Source>, multiply<2, Source>,
                                                          multiply<3, Source>, multiply<4, Source>};
  for (int r = 0; r < m; r += kMaxRows)
    kMultiply[std::min(m - r, kMaxRows) - 1](x + r * ldx, ldx, source, blocks, acc + r * kTileRows);
}

template <class Source>
void tile(const int8_t* x, int64_t ldx, int m, Source source, int64_t blocks, int32_t* acc) {
  if (m <= kMaxRows) return rows(x, ldx, m, source, blocks, acc);
  alignas(64) int8_t unpacked[kMaxBlocks * kTileRows * kBlock];
  for (int64_t b = 0; b < blocks; b += kMaxBlocks) {
    const int64_t count = std::min<int64_t>(kMaxBlocks, blocks - b);
    for (int64_t byte = 0; byte < count * kBlockBytes; byte += kVector) {
      const Codes codes = source[b * kBlockBytes + byte];
      vst1q_s8(unpacked + 2 * byte, codes.first);
      vst1q_s8(unpacked + 2 * byte + kVector, codes.second);
    }
    rows(x + b * kBlock, ldx, m, Unpacked{unpacked}, count, acc);
  }
}

}  // namespace

void panel_sdot(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
                int32_t* acc) {
  for (int r = 0; r < m; ++r) {
    const int32_t start = lo ? 128 * sum(x + r * ldx, blocks * kBlock) : 0;
    for (int t = 0; t < tiles; ++t) std::fill_n(acc + (int64_t{t} * m + r) * kTileRows, kTileRows, start);
  }
  for (int t = 0; t < tiles; ++t) {
    const int64_t plane = t * blocks * kBlockBytes;
    int32_t* const sums = acc + int64_t{t} * m * kTileRows;
    if (lo)
      tile(x, ldx, m, Bytes{hi + plane, lo + plane}, blocks, sums);
    else
      tile(x, ldx, m, Nibbles{hi + plane}, blocks, sums);
  }
}

}  // namespace vlaq

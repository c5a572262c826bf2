// AVX2 without VNNI: VPMADDUBSW multiplies unsigned by signed bytes and adds neighbours, saturating at 16 bits.
//
// Nibbles (0..15) never saturate; eight such sums fit in 16 bits before they must be widened. Whole codes (0..255) do
// not saturate as long as two neighbouring activations sum to at most 128 in magnitude. Of four quantized activations
// that a Hadamard transform has made normal, 92 % (K = 128) to 99 % (K = 16384) are such; the others are halved and the
// other half is a `Rest`, multiplied afterwards. That makes one VPMADDUBSW per 32 products where nibbles take two.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "rows.h"
#include "tiles.h"

#pragma GCC optimize("no-tree-ter")  // GCC would merge expressions across the order that add_pairs and add_quads set

namespace vlaq {
namespace {

constexpr int kPackedRows = 4;              // of activations multiplied at a time: 8 sums fit in registers
constexpr int kGroups = kBlock / 4;         // of four features in a block
constexpr int kGroupBytes = 4 * kTileRows;  // of a tile, one byte per code
constexpr int64_t kChunkBlocks = 16;        // of features at a time: the codes of a tile then stay in L1
constexpr int kFewRows = 4;                 // at a time, where the codes are expanded in registers
constexpr int kManyRows = 8;                // above which expanding the codes in memory pays
constexpr int kAhead = 2048;                // bytes of a plane that are on their way from memory

inline __m256i load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store(uint8_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline void add_to(int32_t* p, __m256i v) {
  __m256i* sum = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(sum, _mm256_add_epi32(_mm256_loadu_si256(sum), v));
}
inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
inline __m256i broadcast(const int8_t* four) {
  int32_t value;
  std::memcpy(&value, four, sizeof value);
  return _mm256_set1_epi32(value);
}
inline __m256i high(__m256i bytes) { return _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15)); }
inline __m256i low(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i widen(__m256i pairs, int16_t factor) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(factor)); }

// Loops that the compiler must unroll before it decides what lives in registers.
template <int... kI, class F>
inline __attribute__((always_inline)) void unroll(std::integer_sequence<int, kI...>, F body) {
  (body(std::integral_constant<int, kI>()), ...);
}
template <int kN, class F>
inline __attribute__((always_inline)) void unroll(F body) {
  unroll(std::make_integer_sequence<int, kN>(), body);
}
// Makes GCC add here: it would compute the products of several groups first, and spill them.
inline __attribute__((always_inline)) void add_pairs(__m256i& sum, __m256i products) {
  sum = _mm256_add_epi16(sum, products);
  asm("" : "+x"(sum));
}
inline __attribute__((always_inline)) void add_quads(__m256i& sum, __m256i products) {
  sum = _mm256_add_epi32(sum, products);
  asm("" : "+x"(sum));
}

// Few rows: nibbles are expanded in registers; weights are read once, in order.
template <int kRows, bool kLo>
void few_rows(const int8_t* x, int64_t ldx, const uint8_t* hi, const uint8_t* lo, int64_t blocks, int32_t* acc) {
  std::fill_n(acc, kRows * kTileRows, 0);
  for (int64_t b = 0; b < blocks; ++b, x += kBlock, hi += kBlockBytes, lo += kLo ? kBlockBytes : 0) {
    for (int at = 0; at < kBlockBytes; at += 64) {
      prefetch(hi + at + kAhead);
      if (kLo) prefetch(lo + at + kAhead);
    }
    for (int half = 0; half < 2; ++half) {  // of a tile's rows
      for (int g = 0; g < kGroups / 2; g += 4) {  // four bytes, eight nibbles: what 16 bits hold
        __m256i hi_sum[kRows], lo_sum[kRows];
        unroll<kRows>([&](auto r) { hi_sum[r] = lo_sum[r] = _mm256_setzero_si256(); });
        unroll<4>([&](auto i) {
          const int at = (g + i) * kGroupBytes + half * 32;
          const __m256i h = load(hi + at), h0 = high(h), h1 = low(h);
          const __m256i l = kLo ? load(lo + at) : h, l0 = high(l), l1 = low(l);
          unroll<kRows>([&](auto r) {
            const int8_t* row = x + r * ldx + 4 * (g + i);
            const __m256i x0 = broadcast(row), x1 = broadcast(row + kBlock / 2);
            add_pairs(hi_sum[r], _mm256_maddubs_epi16(h0, x0));
            add_pairs(hi_sum[r], _mm256_maddubs_epi16(h1, x1));
            if (kLo) {
              add_pairs(lo_sum[r], _mm256_maddubs_epi16(l0, x0));
              add_pairs(lo_sum[r], _mm256_maddubs_epi16(l1, x1));
            }
          });
        });
        unroll<kRows>([&](auto r) {
          const __m256i sum = widen(hi_sum[r], kLo ? 16 : 1);
          add_to(acc + r * kTileRows + half * 8, kLo ? _mm256_add_epi32(sum, widen(lo_sum[r], 1)) : sum);
        });
      }
    }
  }
}

// Expands nibbles to one byte per code; groups of four features follow each other, 16 rows x 4 features each.
void expand(const uint8_t* hi, const uint8_t* lo, int64_t blocks, uint8_t* codes) {
  for (int64_t b = 0; b < blocks; ++b) {
    for (int at = 0; at < kBlockBytes; at += 32) {
      const __m256i h = load(hi + b * kBlockBytes + at);
      __m256i first = high(h), second = low(h);
      if (lo) {
        const __m256i l = load(lo + b * kBlockBytes + at);
        first = _mm256_or_si256(_mm256_andnot_si256(_mm256_set1_epi8(15), h), high(l));
        second = _mm256_or_si256(_mm256_slli_epi16(second, 4), low(l));
      }
      store(codes + b * 2 * kBlockBytes + at, first);
      store(codes + b * 2 * kBlockBytes + kBlockBytes + at, second);
    }
  }
}

struct Rest {  // what is missing of four activations
  int32_t code;  // where their codes begin
  int32_t sum;   // where their row's sums begin
  int8_t values[4];
};

// Activations of a chunk of features, kPackedRows rows at a time: [group][row][4].
struct Packed {
  std::unique_ptr<int8_t[]> values;
  std::vector<Rest> rest;
  std::vector<size_t> rest_begin;  // of every kPackedRows rows, and the end
};

Rest halve(int8_t* four, int32_t group, int32_t row) {
  Rest rest{group * kGroupBytes, row * kTileRows, {}};
  for (int i = 0; i < 4; ++i) {
    rest.values[i] = int8_t(four[i] / 2);
    four[i] = int8_t(four[i] - rest.values[i]);
  }
  return rest;
}

template <bool kLo>
void pack(const int8_t* x, int64_t ldx, int m, int64_t blocks, Packed& to) {
  to.rest.clear();
  to.rest_begin.assign(1, 0);
  const __m256i ones = _mm256_set1_epi8(1), most = _mm256_set1_epi16(128);
  for (int r = 0; r < m; r += kPackedRows) {
    int8_t* packed = to.values.get() + r * blocks * kBlock;
    for (int64_t g = 0; g < blocks * kGroups; g += 4) {
      __m128 rows[4];
      for (int i = 0; i < 4; ++i) {
        const float* four_groups = reinterpret_cast<const float*>(x + (r + i) * ldx + 4 * g);
        rows[i] = r + i < m ? _mm_loadu_ps(four_groups) : _mm_setzero_ps();
      }
      _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]);
      for (int i = 0; i < 4; ++i) _mm_storeu_ps(reinterpret_cast<float*>(packed + (g + i) * 4 * kPackedRows), rows[i]);
      if (!kLo) continue;
      for (int i = 0; i < 4; i += 2) {
        const __m256i two = _mm256_castps_si256(_mm256_set_m128(rows[i + 1], rows[i]));
        const __m256i over = _mm256_cmpgt_epi16(_mm256_abs_epi16(_mm256_maddubs_epi16(ones, two)), most);
        for (int where = _mm256_movemask_epi8(over); where; ) {
          const int four = __builtin_ctz(unsigned(where)) / 4;
          where &= ~(15 << 4 * four);
          const int32_t group = int32_t(g + i + four / kPackedRows), row = four % kPackedRows;
          to.rest.push_back(halve(packed + (group * kPackedRows + row) * 4, group, row));
        }
      }
    }
    to.rest_begin.push_back(to.rest.size());
  }
}

// Part of the planes that the next tile needs, to be fetched while this one is multiplied.
struct Ahead {
  const uint8_t *hi, *lo;
  int64_t step;  // bytes for every group that is multiplied
};

// Adds to acc [kRows, 16] the products of `groups` groups.
template <int kRows>
void whole_codes(const int8_t* x, const uint8_t* codes, int64_t groups, int32_t* acc, const Ahead& ahead) {
  __m256i sum[kRows][2];
  unroll<kRows>([&](auto r) { sum[r][0] = sum[r][1] = _mm256_setzero_si256(); });
  for (int64_t g = 0; g < groups; ++g, x += 4 * kPackedRows, codes += kGroupBytes) {
    prefetch(ahead.hi + g * ahead.step);
    prefetch(ahead.lo + g * ahead.step);
    const __m256i code[2] = {load(codes), load(codes + 32)};
    unroll<kRows>([&](auto r) {
      const __m256i four = broadcast(x + 4 * r);
      unroll<2>([&](auto v) {
        add_quads(sum[r][v], widen(_mm256_maddubs_epi16(code[v], four), 1));
      });
    });
  }
  unroll<kRows>([&](auto r) { unroll<2>([&](auto v) { add_to(acc + r * kTileRows + 8 * v, sum[r][v]); }); });
}

template <int kRows>
void nibbles(const int8_t* x, const uint8_t* codes, int64_t groups, int32_t* acc, const Ahead& ahead) {
  for (int64_t g = 0; g < groups; g += 8) {
    for (int i = 0; i < 8; i += 2) prefetch(ahead.hi + (g + i) * ahead.step);
    __m256i sum[kRows][2];
    unroll<kRows>([&](auto r) { sum[r][0] = sum[r][1] = _mm256_setzero_si256(); });
    unroll<8>([&](auto) {
      const __m256i code[2] = {load(codes), load(codes + 32)};
      unroll<kRows>([&](auto r) {
        const __m256i four = broadcast(x + 4 * r);
        unroll<2>([&](auto v) { add_pairs(sum[r][v], _mm256_maddubs_epi16(code[v], four)); });
      });
      x += 4 * kPackedRows;
      codes += kGroupBytes;
    });
    unroll<kRows>([&](auto r) {
      unroll<2>([&](auto v) { add_to(acc + r * kTileRows + 8 * v, widen(sum[r][v], 1)); });
    });
  }
}

void add_rest(const Rest* rest, const Rest* end, const uint8_t* codes, int32_t* acc) {
  for (; rest != end; ++rest) {
    const __m256i four = broadcast(rest->values);
    for (int v = 0; v < 2; ++v) {
      const __m256i code = load(codes + rest->code + 32 * v);
      add_to(acc + rest->sum + 8 * v, widen(_mm256_maddubs_epi16(code, four), 1));
    }
  }
}

template <bool kLo>
void many_rows(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
               int32_t* acc) {
  using Kernel = void (*)(const int8_t*, const uint8_t*, int64_t, int32_t*, const Ahead&);
  static constexpr Kernel kernels[2][kPackedRows] = {{nibbles<1>, nibbles<2>, nibbles<3>, nibbles<4>},
                                                     {whole_codes<1>, whole_codes<2>, whole_codes<3>, whole_codes<4>}};
  alignas(32) uint8_t codes[kChunkBlocks * 2 * kBlockBytes];
  const int padded = (m + kPackedRows - 1) / kPackedRows * kPackedRows;
  Packed packed{std::unique_ptr<int8_t[]>(new int8_t[size_t(padded * kChunkBlocks * kBlock)]), {}, {}};
  std::fill_n(acc, int64_t(tiles) * m * kTileRows, 0);
  for (int64_t b = 0; b < blocks; b += kChunkBlocks) {
    const int64_t chunk = std::min(kChunkBlocks, blocks - b);
    pack<kLo>(x + b * kBlock, ldx, m, chunk, packed);
    for (int t = 0; t < tiles; ++t) {
      const int64_t at = (t * blocks + b) * kBlockBytes;
      expand(hi + at, kLo ? lo + at : nullptr, chunk, codes);
      for (int r = 0; r < m; r += kPackedRows) {
        int32_t* out = acc + (int64_t(t) * m + r) * kTileRows;
        const int64_t next = at + (blocks + chunk * r / padded) * kBlockBytes;
        const Ahead ahead{hi + next, kLo ? lo + next : nullptr, (kBlockBytes / kGroups) * kPackedRows / padded + 1};
        kernels[kLo][std::min(kPackedRows, m - r) - 1](packed.values.get() + r * chunk * kBlock, codes, chunk * kGroups,
                                                       out, ahead);
        if (kLo) {
          const size_t* begin = &packed.rest_begin[size_t(r / kPackedRows)];
          add_rest(packed.rest.data() + begin[0], packed.rest.data() + begin[1], codes, out);
        }
      }
    }
  }
}

}  // namespace

void panel_avx2(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
                int32_t* acc) {
  if (m > kManyRows) {
    (lo ? many_rows<true> : many_rows<false>)(x, ldx, m, hi, lo, tiles, blocks, acc);
    return;
  }
  static constexpr decltype(&few_rows<1, true>) kernels[2][kFewRows] = {
      {few_rows<1, false>, few_rows<2, false>, few_rows<3, false>, few_rows<4, false>},
      {few_rows<1, true>, few_rows<2, true>, few_rows<3, true>, few_rows<4, true>}};
  for (int t = 0; t < tiles; ++t) {
    const int64_t at = t * blocks * kBlockBytes;
    for (int r = 0; r < m; r += kFewRows) {
      kernels[lo != nullptr][std::min(kFewRows, m - r) - 1](x + r * ldx, ldx, hi + at, lo ? lo + at : nullptr, blocks,
                                                            acc + (int64_t(t) * m + r) * kTileRows);
    }
  }
}

void quantize_avx2(const Input& x, const Rows& q, int64_t first, int64_t last) { quantize_rows(x, q, first, last); }

void finish_avx2(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits, const Output& y) {
  finish_tile(acc, q, first, m, tile, bits, y);
}

}  // namespace vlaq

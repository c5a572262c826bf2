// The AVX-512 and AMX intrinsics that the package's kernels use, in plain C++ after the operation sections of Intel's
// Intrinsics Guide, for machines without these instructions. It must come first on the include path.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct __m512i {
  uint8_t byte[64];
};

namespace emulated {

template <class Lane>
struct Lanes {
  static constexpr int kCount = 64 / sizeof(Lane);
  Lane lane[kCount];

  Lanes() = default;
  explicit Lanes(const __m512i& v) { std::memcpy(lane, v.byte, 64); }
  operator __m512i() const {
    __m512i v;
    std::memcpy(v.byte, lane, 64);
    return v;
  }
};

template <class Lane, class Function>
__m512i map(Function function) {
  Lanes<Lane> out;
  for (int i = 0; i < Lanes<Lane>::kCount; ++i) out.lane[i] = function(i);
  return out;
}

// What the hardware answers with #GP or #UD.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "emulated instruction fault: %s\n", what);
  std::abort();
}

inline int32_t wrapping_add(int32_t a, int32_t b) { return int32_t(uint32_t(a) + uint32_t(b)); }

}  // namespace emulated

// AVX512F, AVX512BW

inline __m512i _mm512_setzero_si512() { return emulated::map<uint8_t>([](int) { return 0; }); }
inline __m512i _mm512_set1_epi8(char a) { return emulated::map<char>([=](int) { return a; }); }
inline __m512i _mm512_set1_epi32(int a) { return emulated::map<int32_t>([=](int) { return a; }); }

inline __m512i _mm512_loadu_si512(const void* address) {
  __m512i v;
  std::memcpy(v.byte, address, 64);
  return v;
}
inline void _mm512_storeu_si512(void* address, __m512i a) { std::memcpy(address, a.byte, 64); }
inline void _mm512_store_si512(void* address, __m512i a) {
  emulated::require(reinterpret_cast<uintptr_t>(address) % 64 == 0, "VMOVDQA64 to an unaligned address");
  std::memcpy(address, a.byte, 64);
}

inline __m512i _mm512_and_si512(__m512i a, __m512i b) {
  return emulated::map<uint8_t>([&](int i) { return a.byte[i] & b.byte[i]; });
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  const emulated::Lanes<int32_t> left(a), right(b);
  return emulated::map<int32_t>([&](int i) { return emulated::wrapping_add(left.lane[i], right.lane[i]); });
}
inline __m512i _mm512_srli_epi16(__m512i a, unsigned count) {
  const emulated::Lanes<uint16_t> lanes(a);
  return emulated::map<uint16_t>([&](int i) { return count > 15 ? 0 : lanes.lane[i] >> count; });
}
inline __m512i _mm512_slli_epi16(__m512i a, unsigned count) {
  const emulated::Lanes<uint16_t> lanes(a);
  return emulated::map<uint16_t>([&](int i) { return count > 15 ? 0 : lanes.lane[i] << count; });
}

// Bit i of the result is bit (a_i << 2 | b_i << 1 | c_i) of imm8.
inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int imm8) {
  return emulated::map<uint8_t>([&](int i) {
    uint8_t out = 0;
    for (int bit = 0; bit < 8; ++bit) {
      const int index = (a.byte[i] >> bit & 1) << 2 | (b.byte[i] >> bit & 1) << 1 | (c.byte[i] >> bit & 1);
      out |= (imm8 >> index & 1) << bit;
    }
    return out;
  });
}

enum _mm_hint { _MM_HINT_T0, _MM_HINT_T1 };
inline void _mm_prefetch(const char*, _mm_hint) {}

// AVX512_VNNI: src + the sum of four products of unsigned bytes of a and signed bytes of b, not saturated.
inline __m512i _mm512_dpbusd_epi32(__m512i src, __m512i a, __m512i b) {
  const emulated::Lanes<int32_t> sums(src);
  const emulated::Lanes<int8_t> right(b);
  return emulated::map<int32_t>([&](int i) {
    int32_t sum = sums.lane[i];
    for (int j = 4 * i; j < 4 * i + 4; ++j) sum = emulated::wrapping_add(sum, int{a.byte[j]} * int{right.lane[j]});
    return sum;
  });
}

// AMX-TILE, AMX-INT8: palette 1, eight tiles of at most 16 rows of 64 bytes, of every thread.

namespace emulated {

struct Tile {
  int rows = 0, row_bytes = 0;  // 0: not configured
  uint8_t byte[16][64] = {};
};

struct Tiles {
  bool configured = false;
  Tile tile[8];

  Tile& operator[](int number) {
    require(configured && tile[number].rows, "a tile that is not configured");
    return tile[number];
  }
};

inline Tiles& tiles() {
  thread_local Tiles state;
  return state;
}

template <class Pointer>
Pointer* row(Pointer* base, int64_t stride, int number) {
  return base + stride * number;
}

}  // namespace emulated

inline void _tile_loadconfig(const void* address) {
  const auto* config = static_cast<const uint8_t*>(address);
  emulated::require(config[0] == 1 && config[1] == 0, "LDTILECFG wants palette 1 and start row 0");
  for (int i = 2; i < 16; ++i) emulated::require(config[i] == 0, "LDTILECFG with a reserved byte that is not zero");
  emulated::Tiles state;
  state.configured = true;
  for (int i = 0; i < 16; ++i) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, config + 16 + 2 * i, sizeof row_bytes);
    const int rows = config[48 + i];
    emulated::require(i < 8 || (rows == 0 && row_bytes == 0), "LDTILECFG of a tile beyond the palette");
    emulated::require(rows <= 16 && row_bytes <= 64, "LDTILECFG of a tile beyond 16 rows of 64 bytes");
    emulated::require((rows == 0) == (row_bytes == 0), "LDTILECFG of a tile with rows or bytes alone");
    if (i < 8) {
      state.tile[i].rows = rows;
      state.tile[i].row_bytes = row_bytes;
    }
  }
  emulated::tiles() = state;  // every tile is zero
}

inline void _tile_release() { emulated::tiles() = emulated::Tiles(); }

inline void _tile_zero(int destination) { std::memset(emulated::tiles()[destination].byte, 0, 16 * 64); }

inline void _tile_loadd(int destination, const void* base, int64_t stride) {
  emulated::Tile& tile = emulated::tiles()[destination];
  std::memset(tile.byte, 0, sizeof tile.byte);
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(tile.byte[r], emulated::row(static_cast<const uint8_t*>(base), stride, r), tile.row_bytes);
}

inline void _tile_stored(int source, void* base, int64_t stride) {
  const emulated::Tile& tile = emulated::tiles()[source];
  for (int r = 0; r < tile.rows; ++r)
    std::memcpy(emulated::row(static_cast<uint8_t*>(base), stride, r), tile.byte[r], tile.row_bytes);
}

// sum[m][n] += the products of four signed bytes of a[m] and four unsigned bytes of b[k], for every k.
inline void _tile_dpbsud(int sum, int a, int b) {
  emulated::Tile &c = emulated::tiles()[sum], &left = emulated::tiles()[a], &right = emulated::tiles()[b];
  emulated::require(sum != a && sum != b && a != b, "TDPBSUD with the same tile twice");
  emulated::require(c.rows == left.rows && c.row_bytes == right.row_bytes && left.row_bytes == 4 * right.rows,
                    "TDPBSUD of tiles whose shapes do not fit");
  for (int m = 0; m < c.rows; ++m) {
    for (int n = 0; n < c.row_bytes / 4; ++n) {
      int32_t total;
      std::memcpy(&total, c.byte[m] + 4 * n, sizeof total);
      for (int k = 0; k < right.rows; ++k)
        for (int i = 4 * k; i < 4 * k + 4; ++i)
          total = emulated::wrapping_add(total, int{int8_t(left.byte[m][i])} * int{right.byte[k][4 * n + i % 4]});
      std::memcpy(c.byte[m] + 4 * n, &total, sizeof total);
    }
    std::memset(c.byte[m] + c.row_bytes, 0, 64 - c.row_bytes);
  }
  for (int m = c.rows; m < 16; ++m) std::memset(c.byte[m], 0, 64);
}

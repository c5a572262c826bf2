// AMX: TDPBSUD multiplies a tile of signed activations [16 x 64], read where they lie, by a tile of unsigned codes.
//
// Two by two accumulators, so that every tile that is loaded is used twice. Codes are unpacked into B tiles once for
// all rows of activations, 1024 features of two tiles at a time: 32 KB, which stay in L1 (ONNX Runtime's MLAS takes
// the same K). They are unpacked one strip ahead, between the tile products: these leave the vector ports idle, and a
// tile cannot be loaded from a store that is still under way.
#include <algorithm>

#include "avx512.h"

namespace vlaq {
namespace {

constexpr int kMaxBlocks = 16;                  // of a strip
constexpr int kTileBytes = kTileRows * kBlock;  // of one unpacked block: a B tile
constexpr int kStride = kVector;                // of the rows of a B tile and of acc

// Keeps stores before the intrinsics that follow: GCC's do not say what memory they read.
inline void commit(const void* written) { asm volatile("" : : "r"(written) : "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// tmm0-3 accumulate, tmm4-5 hold activations, tmm6-7 codes.
inline void configure(int rows) {
  TileConfig config;
  std::fill_n(config.row_bytes, 8, uint16_t{kStride});
  std::fill_n(config.rows, 6, static_cast<uint8_t>(rows));
  std::fill_n(config.rows + 6, 2, uint8_t{kTileRows});
  commit(&config);
  _tile_loadconfig(&config);
}

// At most 16 blocks of features of one or two neighbouring tiles.
struct Strip {
  const uint8_t *hi, *lo;
  int tiles;
  int64_t first_block, blocks;
  int32_t* acc;
};

// The strips of a panel in order: all tiles for some features, whose activations stay in L2, then the next features.
struct Walk {
  const uint8_t *hi, *lo;
  int tiles;
  int64_t blocks;
  int32_t* acc;
  int64_t acc_tile;

  int64_t chunks() const { return (blocks + kMaxBlocks - 1) / kMaxBlocks; }
  int64_t pairs() const { return (tiles + 1) / 2; }
  int64_t size() const { return chunks() * pairs(); }

  Strip operator[](int64_t step) const {
    const int64_t next = tiles * blocks * kBlockBytes;  // the next panel's first strip, which is none of this one's
    if (step >= size()) return {hi + next, lo ? lo + next : nullptr, 0, 0, 0, nullptr};
    const int64_t chunk = step / pairs(), tile = step % pairs() * 2;
    const int64_t begin = blocks * chunk / chunks(), end = blocks * (chunk + 1) / chunks();
    const int64_t offset = (tile * blocks + begin) * kBlockBytes;
    return {hi + offset,        lo ? lo + offset : nullptr, tile + 1 < tiles ? 2 : 1, begin, end - begin,
            acc + tile * acc_tile};
  }
};

// What goes on beside the tile products: the next strip is unpacked, block by block, into [block, tile, 1024 bytes],
// and the one after it brought from memory to L2, evenly over the passes over the rows, so that memory never rests.
template <bool kBytes>
struct Ahead {
  Strip next, after;
  int64_t plane;  // bytes of a tile
  uint8_t* out;
  int64_t block = 0;
  int first_byte = 0, last_byte = 0;  // of every block of `after`, in this pass

  void start(int pass, int passes) {
    first_byte = kBlockBytes / kVector * pass / passes * kVector;
    last_byte = kBlockBytes / kVector * (pass + 1) / passes * kVector;
  }

  void prefetch(int64_t block) const {
    for (int t = 0; t < 2; ++t) {
      const int64_t offset = t * plane + block * kBlockBytes;
      for (int byte = first_byte; byte < last_byte; byte += kVector) {
        _mm_prefetch(reinterpret_cast<const char*>(after.hi + offset + byte), _MM_HINT_T1);
        if constexpr (kBytes) _mm_prefetch(reinterpret_cast<const char*>(after.lo + offset + byte), _MM_HINT_T1);
      }
    }
  }

  bool unpack_block() {
    if (block == next.blocks) return false;
    for (int t = 0; t < next.tiles; ++t, out += kTileBytes) {
      const int64_t offset = t * plane + block * kBlockBytes;
      const uint8_t *hi = next.hi + offset, *lo = kBytes ? next.lo + offset : nullptr;
#pragma GCC unroll 8
      for (int byte = 0; byte < kBlockBytes; byte += kVector) {
        const Codes codes = unpack<kBytes>(hi + byte, kBytes ? lo + byte : nullptr);
        _mm512_store_si512(out + byte, codes.first);
        _mm512_store_si512(out + kTileBytes / 2 + byte, codes.second);
      }
    }
    ++block;
    return true;
  }
};

// Adds one or two runs of rows times one or two tiles to acc, c0 and c1 being its first tile. All sums are read before
// any is written, so that the runs may overlap.
template <bool kTwoRuns, bool kTwoTiles, bool kBytes>
void multiply(const int8_t* x0, const int8_t* x1, int64_t ldx, const uint8_t* codes, const Strip& strip, int32_t* c0,
              int32_t* c1, int64_t acc_tile, Ahead<kBytes>& ahead) {
  if (strip.first_block == 0) {
    _tile_zero(0);
    if constexpr (kTwoRuns) _tile_zero(1);
    if constexpr (kTwoTiles) _tile_zero(2);
    if constexpr (kTwoTiles && kTwoRuns) _tile_zero(3);
  } else {
    _tile_loadd(0, c0, kStride);
    if constexpr (kTwoRuns) _tile_loadd(1, c1, kStride);
    if constexpr (kTwoTiles) _tile_loadd(2, c0 + acc_tile, kStride);
    if constexpr (kTwoTiles && kTwoRuns) _tile_loadd(3, c1 + acc_tile, kStride);
  }
  for (int64_t b = 0; b < strip.blocks; ++b) {
    _tile_loadd(6, codes, kStride);
    _tile_loadd(4, x0 + b * kBlock, ldx);
    _tile_dpbsud(0, 4, 6);
    if constexpr (kTwoRuns) {
      _tile_loadd(5, x1 + b * kBlock, ldx);
      _tile_dpbsud(1, 5, 6);
    }
    codes += kTileBytes;
    if constexpr (kTwoTiles) {
      _tile_loadd(7, codes, kStride);
      _tile_dpbsud(2, 4, 7);
      if constexpr (kTwoRuns) _tile_dpbsud(3, 5, 7);
      codes += kTileBytes;
    }
    ahead.prefetch(b);
    ahead.unpack_block();
  }
  _tile_stored(0, c0, kStride);
  if constexpr (kTwoRuns) _tile_stored(1, c1, kStride);
  if constexpr (kTwoTiles) _tile_stored(2, c0 + acc_tile, kStride);
  if constexpr (kTwoTiles && kTwoRuns) _tile_stored(3, c1 + acc_tile, kStride);
}

template <bool kBytes>
void panel(const int8_t* x, int64_t ldx, int m, const Walk& walk) {
  alignas(64) uint8_t codes[2][2 * kMaxBlocks * kTileBytes];
  const int64_t plane = walk.blocks * kBlockBytes;

  // Runs of equal length need one configuration. The last one ends with the panel and may overlap the one before it;
  // an odd run is done first, so that these two are done together.
  const int runs = (m + kTileRows - 1) / kTileRows, rows = (m + runs - 1) / runs;
  configure(rows);

  Ahead<kBytes> first{walk[0], walk[1], plane, codes[0]};
  while (first.unpack_block()) {
  }
  for (int64_t step = 0; step < walk.size(); ++step) {
    const Strip strip = walk[step];
    Ahead<kBytes> ahead{walk[step + 1], walk[step + 2], plane, codes[(step + 1) % 2]};
    const auto single = strip.tiles == 2 ? multiply<false, true, kBytes> : multiply<false, false, kBytes>;
    const auto couple = strip.tiles == 2 ? multiply<true, true, kBytes> : multiply<true, false, kBytes>;
    const int8_t* features = x + strip.first_block * kBlock;
    commit(codes[step % 2]);
    for (int run = 0, pass = 0; run < runs; ++pass) {
      const bool alone = pass == 0 && runs % 2;
      const int r0 = run * rows, r1 = alone ? r0 : std::min(r0 + rows, m - rows);
      ahead.start(pass, (runs + 1) / 2);
      (alone ? single : couple)(features + r0 * ldx, features + r1 * ldx, ldx, codes[step % 2], strip,
                                strip.acc + r0 * kTileRows, strip.acc + r1 * kTileRows, walk.acc_tile, ahead);
      run += alone ? 1 : 2;
    }
    while (ahead.unpack_block()) {
    }
  }
  _tile_release();
}

}  // namespace

void panel_amx(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
               int32_t* acc) {
  const auto whole = lo ? panel<true> : panel<false>;
  whole(x, ldx, m, {hi, lo, tiles, blocks, acc, int64_t{m} * kTileRows});
}

}  // namespace vlaq

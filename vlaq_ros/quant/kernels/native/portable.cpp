// Plain C++: what the other instruction sets are tested against, and what runs where none of them does.
#include "rows.h"
#include "tiles.h"

namespace vlaq {

void quantize_portable(const Input& x, const Rows& q, int64_t first, int64_t last) { quantize_rows(x, q, first, last); }

void finish_portable(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits, const Output& y) {
  finish_tile(acc, q, first, m, tile, bits, y);
}

void panel_portable(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles,
                    int64_t blocks, int32_t* acc) {
  for (int t = 0; t < tiles; ++t) {
    for (int r = 0; r < m; ++r) {
      int32_t* out = acc + (int64_t(t) * m + r) * kTileRows;
      for (int o = 0; o < kTileRows; ++o) out[o] = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const int8_t* features = x + r * ldx + b * kBlock;
        const int64_t block = (t * blocks + b) * kBlockBytes;
        for (int byte = 0; byte < kBlockBytes; ++byte) {
          const int o = byte / 4 % kTileRows, feature = byte / (4 * kTileRows) * 4 + byte % 4;
          int first = hi[block + byte] >> 4, second = hi[block + byte] & 15;
          if (lo) {
            first = first << 4 | lo[block + byte] >> 4;
            second = second << 4 | (lo[block + byte] & 15);
          }
          out[o] += features[feature] * first + features[kBlock / 2 + feature] * second;
        }
      }
    }
  }
}

}  // namespace vlaq

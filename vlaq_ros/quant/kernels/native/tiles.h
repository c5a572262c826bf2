// The wall between the driver and the instruction sets: the tile layout and the one function that each set provides.
//
// A tile is 16 stored rows (output channels). Its features come in blocks of 64; a block of one nibble plane is 512
// bytes. Byte ((g * 16) + o) * 4 + i (g 0..7, o 0..15, i 0..3) belongs to row o: feature 4 g + i of the block in its
// high nibble, feature 32 + 4 g + i in its low nibble. Four features of one row are neighbours, as VPDPBUSD, SDOT and
// the B tile of AMX want them; 32 bytes are 8 rows for AVX2.
#pragma once

#include <cstdint>

namespace vlaq {

constexpr int kTileRows = 16, kBlock = 64, kBlockBytes = kTileRows * kBlock / 2;

// For every r < m and t < tiles: acc[(t * m + r) * 16 + o] = sum over k < blocks * 64 of x[r * ldx + k] * c(t, o, k),
// where c is the code of row o of tile t: 0..15 from the plane `hi` if `lo` is null, else 0..255 from both planes.
// Activations lie in [-127, 127] and are zero beyond the features of the layer. `hi` and `lo` point at the first of
// `tiles` consecutive tiles of blocks * 512 bytes. All counts are at least 1. Reentrant; writes nothing but acc.
using Panel = void (*)(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles,
                       int64_t blocks, int32_t* acc);

void panel_portable(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles,
                    int64_t blocks, int32_t* acc);
void panel_avx2(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
                int32_t* acc);
void panel_avx512vnni(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles,
                      int64_t blocks, int32_t* acc);
void panel_amx(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
               int32_t* acc);
void panel_sdot(const int8_t* x, int64_t ldx, int m, const uint8_t* hi, const uint8_t* lo, int tiles, int64_t blocks,
                int32_t* acc);

}  // namespace vlaq

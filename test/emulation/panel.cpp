// Runs one panel, named by the macro PANEL, on the cases of its standard input and writes their sums to its output. A
// case is m, ldx, tiles, blocks and the number of planes as int64, then x, hi and, of two planes, lo.
#include <cstdio>
#include <vector>

#include "tiles.h"

template <class T>
static bool read(std::vector<T>& values) {
  return std::fread(values.data(), sizeof(T), values.size(), stdin) == values.size();
}

int main() {
  std::vector<int64_t> header(5);
  while (read(header)) {
    const int64_t m = header[0], ldx = header[1], tiles = header[2], blocks = header[3], planes = header[4];
    // not a byte more than the panel may read: the address sanitizer sees the rest
    std::vector<int8_t> x((m - 1) * ldx + blocks * vlaq::kBlock);
    std::vector<uint8_t> hi(tiles * blocks * vlaq::kBlockBytes), lo(planes == 2 ? hi.size() : 0);
    if (!read(x) || !read(hi) || !read(lo)) return 1;
    std::vector<int32_t> acc(tiles * m * vlaq::kTileRows, 0x5a5a5a5a);
    vlaq::PANEL(x.data(), ldx, int(m), hi.data(), planes == 2 ? lo.data() : nullptr, int(tiles), blocks, acc.data());
    std::fwrite(acc.data(), sizeof acc[0], acc.size(), stdout);
  }
}

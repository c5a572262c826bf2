// The driver: quantizes the activations once, walks the tiles with the processor's panel, finishes the outputs.
#include "linear.h"

#include <algorithm>
#include <memory>

#include "isa.h"

namespace vlaq {
namespace {

constexpr int64_t kPanelSums = 1 << 18;       // of a panel: 1 MB
constexpr int64_t kThreadProducts = 1 << 20;  // that a further thread is worth
constexpr int64_t kThreadFeatures = 1 << 15;  // to be quantized that a further thread is worth

struct Groups {
  const int64_t* pairs;  // (tiles, bits)
  int64_t count;

  int64_t tiles(int64_t g) const { return pairs[2 * g]; }
  int bits(int64_t g) const { return int(pairs[2 * g + 1]); }
};

struct Planes {
  const uint8_t *hi, *lo;
  int64_t blocks;
};

template <class Body>
void parallel_for(VlaqParallel parallel, int64_t n, int64_t grain, const Body& body) {
  if (!parallel || n <= grain) return body(0, n);
  const auto call = [](void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); };
  parallel(n, grain, call, const_cast<Body*>(&body));
}

// Tiles begin..end, whose codes all have as many bits.
void multiply(const Planes& planes, const Rows& q, int64_t begin, int64_t end, int bits, const Output& y) {
  const Isa& isa = vlaq::isa();
  const int64_t most_rows = std::min(isa.panel_rows, q.count);
  const int64_t most_tiles = std::clamp<int64_t>(kPanelSums / (most_rows * kTileRows), 1, end - begin);
  const std::unique_ptr<int32_t[]> acc(new int32_t[size_t(most_tiles * most_rows * kTileRows)]);
  for (int64_t first = 0; first < q.count; first += most_rows) {
    const int m = int(std::min(most_rows, q.count - first));
    const Panel panel = m < isa.many ? isa.few_rows : isa.many_rows;
    for (int64_t t = begin; t < end; t += most_tiles) {
      const int tiles = int(std::min(most_tiles, end - t));
      const int64_t at = t * planes.blocks * kBlockBytes;
      panel(q.values + first * q.stride, q.stride, m, planes.hi + at, bits == 8 ? planes.lo + at : nullptr, tiles,
            planes.blocks, acc.get());
      for (int i = 0; i < tiles; ++i) {
        isa.finish(acc.get() + int64_t(i) * m * kTileRows, q, first, m, t + i, bits, y);
      }
    }
  }
}

bool reach_all_outputs(const Groups& groups, const Output& y) {
  int64_t reached = 0, stored = 0;
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t end = stored + groups.tiles(g) * kTileRows;
    if (groups.bits(g) && y.rows) {
      reached += std::count_if(y.rows + stored, y.rows + end, [](int32_t output) { return output >= 0; });
    } else if (groups.bits(g)) {
      reached += std::min(end, y.features) - std::min(stored, y.features);
    }
    stored = end;
  }
  return reached == y.features;
}

// Gives every output its bias, and NaN to rows that are not finite.
template <class T>
void fill(const Rows& q, const Output& y) {
  for (int64_t r = 0; r < q.count; ++r) {
    for (int64_t o = 0; o < y.features; ++o) {
      narrow(0.0f * q.scale[r] + (y.bias ? y.bias[o] : 0.0f), static_cast<T*>(y.data)[r * y.features + o]);
    }
  }
}

}  // namespace
}  // namespace vlaq

const char* vlaq_isa() { return vlaq::isa().name; }

void vlaq_nested_linear(const void* x, int type, int64_t M, int64_t K, int64_t x_row_stride, const uint8_t* hi,
                        const uint8_t* lo, int64_t blocks, const float* scale, const int32_t* rows, const float* bias,
                        const int64_t* groups, int64_t n_groups, int64_t hadamard_block, int64_t out_features, void* y,
                        VlaqParallel parallel) {
  using namespace vlaq;
  if (M == 0) return;
  const int64_t padded = blocks * kBlock;
  const int64_t stride = (blocks | 1) * kBlock;  // an odd number of cache lines: rows spread over all sets of a cache
  const std::unique_ptr<int8_t[]> values(new int8_t[size_t(M * stride)]);
  const std::unique_ptr<float[]> scales(new float[size_t(M)]);
  const std::unique_ptr<int32_t[]> sums(new int32_t[size_t(M)]);
  const Input input{x, Type(type), x_row_stride, K, hadamard_block};
  const Rows q{values.get(), M, padded, stride, scales.get(), sums.get()};
  const Output output{y, Type(type), out_features, scale, rows, bias};
  const Groups widths{groups, n_groups};

  parallel_for(parallel, M, std::max<int64_t>(1, kThreadFeatures / padded),
               [&](int64_t begin, int64_t end) { isa().quantize(input, q, begin, end); });
  if (!reach_all_outputs(widths, output)) with_type(output.type, [&](auto t) { fill<decltype(t)>(q, output); });
  int64_t tiles = 0;
  for (int64_t g = 0; g < n_groups; ++g) tiles += widths.tiles(g);
  const int64_t grain = std::max<int64_t>(1, kThreadProducts / (M * padded * kTileRows));
  parallel_for(parallel, tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t g = 0, first = 0; g < n_groups; first += widths.tiles(g++)) {
      const int64_t from = std::max(begin, first), to = std::min(end, first + widths.tiles(g));
      if (widths.bits(g) && from < to) multiply({hi, lo, blocks}, q, from, to, widths.bits(g), output);
    }
  });
}

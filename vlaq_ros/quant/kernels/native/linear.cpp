// The driver: quantizes the activations once, walks the tiles with the processor's panel, finishes the outputs.
#include "linear.h"

#include <algorithm>
#include <memory>

#include "isa.h"

namespace vlaq {
namespace {

constexpr int64_t kPanelRows = 1024;      // of activations in one panel
constexpr int64_t kPanelSums = 1 << 18;   // in one panel: 1 MB
constexpr int64_t kThreadWork = 1 << 20;  // products that a further thread is worth
constexpr int64_t kThreadValues = 1 << 15;

template <class Body>
void parallel_for(VlaqParallel parallel, int64_t n, int64_t grain, const Body& body) {
  if (!parallel || n <= grain) {
    body(0, n);
    return;
  }
  parallel(
      n, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

struct Planes {
  const uint8_t *hi, *lo;
  int64_t blocks;
};

// One group of tiles with the same width, or a part of it.
void multiply(const Planes& planes, const Rows& q, int64_t M, int64_t begin, int64_t end, int bits, const Output& y,
              int32_t* acc) {
  for (int64_t first = 0; first < M; first += kPanelRows) {
    const int m = int(std::min(kPanelRows, M - first));
    const int64_t most = std::max<int64_t>(1, kPanelSums / (m * kTileRows));
    const Panel panel = m < isa().many ? isa().few_rows : isa().many_rows;
    for (int64_t t = begin; t < end; t += most) {
      const int tiles = int(std::min(most, end - t));
      const int64_t at = t * planes.blocks * kBlockBytes;
      panel(q.values + first * q.stride, q.stride, m, planes.hi + at, bits == 8 ? planes.lo + at : nullptr, tiles,
            planes.blocks, acc);
      for (int i = 0; i < tiles; ++i) isa().finish(acc + int64_t(i) * m * kTileRows, q, first, m, t + i, bits, y);
    }
  }
}

template <class T>
void fill(const Rows& q, int64_t first, int64_t last, const Output& y) {
  for (int64_t r = first; r < last; ++r) {
    for (int64_t o = 0; o < y.features; ++o) {
      narrow(0.0f * q.scale[r] + (y.bias ? y.bias[o] : 0.0f), static_cast<T*>(y.data)[r * y.features + o]);
    }
  }
}

// Gives every output its bias, and NaN to rows that are not finite.
void fill(const Rows& q, int64_t M, const Output& y) {
  (y.type == Type::kFloat32 ? fill<float> : y.type == Type::kBFloat16 ? fill<BFloat16> : fill<Float16>)(q, 0, M, y);
}

bool covers_all(const int64_t* groups, int64_t n_groups, const Output& y) {
  int64_t covered = 0, first = 0;
  for (int64_t g = 0; g < n_groups; ++g) {
    const int64_t stored = groups[2 * g] * kTileRows;
    if (groups[2 * g + 1] && y.rows) {
      covered += std::count_if(y.rows + first, y.rows + first + stored, [](int32_t output) { return output >= 0; });
    } else if (groups[2 * g + 1]) {
      covered += std::min(stored, y.features - first);
    }
    first += stored;
  }
  return covered == y.features;
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
  const std::unique_ptr<int8_t[]> values(new int8_t[size_t(M * padded)]);
  const std::unique_ptr<float[]> scales(new float[size_t(M)]);
  const std::unique_ptr<int32_t[]> sums(new int32_t[size_t(M)]);
  const Input input{x, Type(type), x_row_stride, K, hadamard_block};
  const Rows q{values.get(), padded, scales.get(), sums.get()};
  const Output output{y, Type(type), out_features, scale, rows, bias};

  parallel_for(parallel, M, std::max<int64_t>(1, kThreadValues / padded),
               [&](int64_t begin, int64_t end) { isa().quantize(input, q, begin, end); });
  if (!covers_all(groups, n_groups, output)) fill(q, M, output);
  int64_t tiles = 0;
  for (int64_t g = 0; g < n_groups; ++g) tiles += groups[2 * g];
  const int64_t tile_work = M * padded * kTileRows;
  parallel_for(parallel, tiles, std::max<int64_t>(1, kThreadWork / tile_work), [&](int64_t begin, int64_t end) {
    const int64_t rows_at_once = std::min(kPanelRows, M);
    const int64_t sums_at_once = std::max(rows_at_once * kTileRows, std::min(kPanelSums, (end - begin) * rows_at_once * kTileRows));
    const std::unique_ptr<int32_t[]> acc(new int32_t[size_t(sums_at_once)]);
    for (int64_t g = 0, first = 0; g < n_groups; first += groups[2 * g++]) {
      const int64_t from = std::max(begin, first), to = std::min(end, first + groups[2 * g]);
      if (groups[2 * g + 1] && from < to) {
        multiply({hi, lo, blocks}, q, M, from, to, int(groups[2 * g + 1]), output, acc.get());
      }
    }
  });
}

// What lies between the linears of a layer, each in one pass over memory: a small layer is otherwise spent on calls.
// policy/fused.py declares the operators and says what they compute.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "rows.h"

#ifdef __x86_64__
#define VLAQ_CLONES __attribute__((target_clones("avx2", "default")))  // the loader chooses
#else
#define VLAQ_CLONES
#endif

namespace vlaq {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLanes = sizeof(Vector) / sizeof(float);
constexpr int64_t kThreadValues = 1 << 14;  // that a further thread is worth

inline Vector vector_at(const float* x) {
  Vector v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

// x = gelu(x) = x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))), times `factor` if there is one. The exponential is
// that of Cephes. Reads and writes whole vectors.
VLAQ_CLONES void gelu(float* x, const float* factor, int64_t n) {
  const Vector one = Vector{} + 1.0f, most = Vector{} + 87.0f;
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vector v = vector_at(x + i);
    Vector u = v * (-1.5957691216f - 0.0713548163f * (v * v));
    u = u < -most ? -most : u > most ? most : u;
    const Vector shifted = u * 1.44269504f + 0x1.8p23f;  // leaves the integer part in the lowest bits
    const Vector whole = shifted - 0x1.8p23f;
    const Vector r = u - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + one;
    Vector y = v / (one + p * Vector((Bits(shifted) << 23) + Bits(one)));
    if (factor) y *= vector_at(factor + i);
    std::memcpy(x + i, &y, sizeof y);
  }
}

// x = x weight / sqrt(mean of x^2 + eps). Reads whole vectors, with zeros after the n values.
VLAQ_CLONES void normalize(float* x, const float* weight, float eps, int64_t n) {
  Vector squares = {};
  for (int64_t i = 0; i < n; i += kLanes) squares += vector_at(x + i) * vector_at(x + i);
  float sum = 0.0f;
  for (int64_t i = 0; i < kLanes; ++i) sum += squares[i];
  const float root = std::sqrt(sum / float(n) + eps);
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] / root * weight[i];
}

template <class T>
void turn(const T* x, const T* cos, const T* sin, T* y, int64_t size) {
  const int64_t half = size / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float first = widen(x[i]), second = widen(x[i + half]);
    narrow(first * widen(cos[i]) + second * widen(sin[i]), y[i]);
    narrow(second * widen(cos[i + half]) + first * widen(sin[i + half]), y[i + half]);
  }
}

// Calls body with a value of the type of x.
template <class Body>
void dispatch(const Tensor& x, const Body& body) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "vlaq's operators take float32, bfloat16 or float16");
  if (type == ScalarType::Float) {
    body(float{});
  } else if (type == ScalarType::BFloat16) {
    body(BFloat16{});
  } else {
    body(Float16{});
  }
}

int64_t grain(int64_t width) { return std::max<int64_t>(1, kThreadValues / std::max<int64_t>(1, width)); }

std::vector<int64_t> sizes_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

Tensor compact(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

// Calls body(row), a row of x in float32 with room for a vector after it, and gives the first `features` of each row.
template <class Body>
Tensor each_row(const Tensor& x, int64_t features, const Body& body) {
  const Tensor input = compact(x);
  std::vector<int64_t> sizes = sizes_of(x);
  const int64_t width = sizes.back(), rows = width ? x.numel() / width : 0;
  sizes.back() = features;
  Tensor y = torch::stable::empty(sizes, x.scalar_type());
  dispatch(x, [&](auto zero) {
    using T = decltype(zero);
    const T* from = static_cast<const T*>(input.data_ptr());
    T* to = static_cast<T*>(y.data_ptr());
    torch::stable::parallel_for(0, rows, grain(width), [&](int64_t begin, int64_t end) {
      std::vector<float> row(size_t(width + kLanes));
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t i = 0; i < width; ++i) row[size_t(i)] = widen(from[r * width + i]);
        body(row.data());
        for (int64_t i = 0; i < features; ++i) narrow(row[size_t(i)], to[r * features + i]);
      }
    });
  });
  return y;
}

Tensor rms_norm_op(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t width = x.size(x.dim() - 1);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.is_contiguous() && weight.numel() == width,
                  "rms_norm: weight has the wrong type, strides or size");
  const float* gain = static_cast<const float*>(weight.data_ptr());
  return each_row(x, width, [=](float* row) { normalize(row, gain, float(eps), width); });
}

Tensor gelu_op(const Tensor& x, bool gated) {
  const int64_t width = x.size(x.dim() - 1), features = gated ? width / 2 : width;
  return each_row(x, features, [=](float* row) { gelu(row, gated ? row + features : nullptr, features); });
}

Tensor write_heads_op(const Tensor& projected, const Tensor& cos, const Tensor& sin, Tensor written) {
  const int64_t batch = projected.size(0), tokens = projected.size(1), heads = cos.size(1), size = cos.size(2);
  const int64_t queries = heads - written.size(2);
  for (const Tensor& table : {cos, sin}) {
    STD_TORCH_CHECK(table.scalar_type() == projected.scalar_type() && table.is_contiguous() &&
                        table.size(0) == tokens && table.size(1) == heads && table.size(2) == size &&
                        heads * size == projected.size(2),
                    "write_heads: a table has the wrong type, strides or size");
  }
  STD_TORCH_CHECK(written.scalar_type() == projected.scalar_type() && written.size(0) == batch &&
                      written.size(1) == tokens && queries >= 0 && written.size(3) == size &&
                      written.stride(2) == size && written.stride(3) == 1,
                  "write_heads: the cache has the wrong type, strides or size");
  const Tensor input = compact(projected);
  Tensor y = torch::stable::empty({batch, tokens, queries, size}, projected.scalar_type());
  dispatch(projected, [&](auto zero) {
    using T = decltype(zero);
    const T* x = static_cast<const T*>(input.data_ptr());
    const T *cosines = static_cast<const T*>(cos.data_ptr()), *sines = static_cast<const T*>(sin.data_ptr());
    T *query = static_cast<T*>(y.data_ptr()), *cache = static_cast<T*>(written.data_ptr());
    torch::stable::parallel_for(0, batch * tokens, grain(heads * size), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t token = row % tokens;
        T* kept = cache + row / tokens * written.stride(0) + token * written.stride(1);
        for (int64_t head = 0; head < heads; ++head) {
          T* to = head < queries ? query + (row * queries + head) * size : kept + (head - queries) * size;
          const int64_t table = (token * heads + head) * size;
          turn(x + (row * heads + head) * size, cosines + table, sines + table, to, size);
        }
      }
    });
  });
  return y;
}

}  // namespace
}  // namespace vlaq

STABLE_TORCH_LIBRARY_IMPL(vlaq, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&vlaq::rms_norm_op));
  m.impl("gelu", TORCH_BOX(&vlaq::gelu_op));
  m.impl("write_heads", TORCH_BOX(&vlaq::write_heads_op));
}

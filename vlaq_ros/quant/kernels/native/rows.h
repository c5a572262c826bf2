// What happens to whole rows before and after the integer product: activations become int8, sums become outputs.
//
// The arithmetic is float32 without contraction and equal to the Python reference to the bit. Each instruction set
// includes this file and compiles its own copy, hence the anonymous namespace.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

#include "tiles.h"

namespace vlaq {

enum class Type : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

struct Input {
  const void* data;
  Type type;
  int64_t stride;    // of a row, in elements
  int64_t features;  // zeros follow up to Rows::features
  int64_t hadamard;  // block of the rotation: 16, 32 or 64
};

struct Rows {  // quantized activations
  int8_t* values;
  int64_t count;
  int64_t features;  // a multiple of kBlock
  int64_t stride;
  float* scale;    // NaN where a row is not finite
  int32_t* sum;
};

struct Output {
  void* data;
  Type type;
  int64_t features;
  const float* scale;   // of every stored row
  const int32_t* rows;  // output of every stored row, -1 for padding; null: its own number
  const float* bias;    // of every output, or null
};

using Quantize = void (*)(const Input& x, const Rows& q, int64_t first, int64_t last);
using Finish = void (*)(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits,
                        const Output& y);

void quantize_portable(const Input& x, const Rows& q, int64_t first, int64_t last);
void finish_portable(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits, const Output& y);
void quantize_avx2(const Input& x, const Rows& q, int64_t first, int64_t last);
void finish_avx2(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits, const Output& y);

namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen(float value) { return value; }
inline float widen(BFloat16 value) { return float_of(uint32_t(value.bits) << 16); }
inline float widen(Float16 value) {
  const uint32_t magnitude = uint32_t(value.bits & 0x7FFF) << 13;
  const uint32_t bits = bits_of(float_of(magnitude) * 0x1p112f);  // moves the exponent, and makes subnormals normal
  return float_of(bits | (magnitude >= 0x0F800000 ? 0x7F800000 : 0) | uint32_t(value.bits & 0x8000) << 16);
}

// Both round to nearest, halves to even.
inline void narrow(float value, float& to) { to = value; }
inline void narrow(float value, BFloat16& to) {
  const uint32_t bits = bits_of(value);
  to.bits = value != value ? 0x7FC0 : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline void narrow(float value, Float16& to) {
  const uint32_t magnitude = bits_of(value) & 0x7FFFFFFF;
  uint32_t half;
  if (magnitude > 0x7F800000) {
    half = 0x7E00;
  } else if (magnitude >= 0x47800000) {  // 2^16
    half = 0x7C00;
  } else if (magnitude < 0x38800000) {  // subnormal: its unit is that of 0.5f
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  } else {
    half = (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13;
  }
  to.bits = uint16_t(half | (bits_of(value) >> 16 & 0x8000));
}

typedef float Vector __attribute__((vector_size(32)));
typedef int32_t Bits __attribute__((vector_size(32)));

template <class T>
inline Vector load(const T* x) {
  Vector v;
  for (int i = 0; i < 8; ++i) v[i] = widen(x[i]);
  return v;
}

// Unnormalised Walsh-Hadamard transform of 64 features in blocks of kHadamard, in Sylvester's order.
template <int kHadamard>
inline void transform(Vector (&v)[8]) {
  for (Vector& a : v) {
    a = Vector{a[1], a[0], a[3], a[2], a[5], a[4], a[7], a[6]} + a * Vector{1, -1, 1, -1, 1, -1, 1, -1};
    a = Vector{a[2], a[3], a[0], a[1], a[6], a[7], a[4], a[5]} + a * Vector{1, 1, -1, -1, 1, 1, -1, -1};
    a = Vector{a[4], a[5], a[6], a[7], a[0], a[1], a[2], a[3]} + a * Vector{1, 1, 1, 1, -1, -1, -1, -1};
  }
  for (int stride = 1; stride < kHadamard / 8; stride *= 2) {
    for (int i = 0; i < 8; ++i) {
      if (i & stride) continue;
      const Vector a = v[i], b = v[i + stride];
      v[i] = a + b;
      v[i + stride] = a - b;
    }
  }
}

// Writes the transformed row; returns max|x'| as bits, which order NaN above infinity above all numbers.
template <int kHadamard, class T>
int32_t rotate(const T* x, int64_t features, int64_t padded, float* rotated) {
  T last[kBlock] = {};  // the features of the last block, filled up with zeros
  std::copy_n(x + features / kBlock * kBlock, features % kBlock, last);
  Bits largest = {};
  for (int64_t k = 0; k < padded; k += kBlock) {
    const T* block = k + kBlock <= features ? x + k : last;
    Vector v[8];
    for (int i = 0; i < 8; ++i) v[i] = load(block + 8 * i);
    transform<kHadamard>(v);
    for (int i = 0; i < 8; ++i) {
      std::memcpy(rotated + k + 8 * i, &v[i], sizeof v[i]);
      const Bits magnitude = Bits(v[i]) & 0x7FFFFFFF;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  int32_t result = 0;
  for (int i = 0; i < 8; ++i) result = std::max(result, largest[i]);
  return result;
}

template <class T>
void quantize_row(const Input& x, const Rows& q, int64_t row, float* rotated) {
  const T* data = static_cast<const T*>(x.data) + row * x.stride;
  const auto transformed = x.hadamard == 64 ? rotate<64, T> : x.hadamard == 32 ? rotate<32, T> : rotate<16, T>;
  const float largest = float_of(uint32_t(transformed(data, x.features, q.features, rotated)));
  const bool usable = std::isfinite(largest) && largest >= 1e-30f;
  const float inverse = 127.0f / largest;
  const float round = 0x1.8p23f;  // adding it leaves no bits below one: rounds halves to even
  const int64_t padded = q.features;
  int8_t* __restrict values = q.values + row * q.stride;
  int32_t sum = 0;
  if (usable) {
    for (int64_t k = 0; k < padded; ++k) {
      const int32_t value = int32_t(bits_of(rotated[k] * inverse + round) - bits_of(round));
      values[k] = int8_t(value);
      sum += value;
    }
  } else {
    std::fill_n(values, padded, int8_t(0));
  }
  q.sum[row] = sum;
  q.scale[row] = std::isfinite(largest) ? largest / 127.0f * float(1.0 / std::sqrt(double(x.hadamard))) : NAN;
}

template <class T>
void finish_rows(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits, const Output& y) {
  int64_t outputs[kTileRows];
  float scale[kTileRows], bias[kTileRows];
  int count = 0;
  bool neighbours = true;
  for (int o = 0; o < kTileRows; ++o) {
    const int64_t stored = tile * kTileRows + o;
    const int64_t output = y.rows ? y.rows[stored] : stored < y.features ? stored : -1;
    if (output < 0) break;  // padding ends a tile
    outputs[count++] = output;
    neighbours &= output == outputs[0] + o;
    scale[o] = y.scale[stored] * float(1 << (8 - bits));
    bias[o] = y.bias ? y.bias[output] : 0.0f;
  }
  for (int o = count; o < kTileRows; ++o) scale[o] = bias[o] = 0.0f;
  for (int r = 0; r < m; ++r) {
    const int32_t sum = q.sum[first + r];
    const float half = 0.5f * float(sum), x_scale = q.scale[first + r];
    T values[kTileRows];
    for (int o = 0; o < kTileRows; ++o) {
      const int32_t centred = acc[r * kTileRows + o] - (sum << (bits - 1));
      narrow((float(centred) + half) * (x_scale * scale[o]) + bias[o], values[o]);
    }
    T* row = static_cast<T*>(y.data) + (first + r) * y.features;
    if (neighbours && count == kTileRows) {
      std::memcpy(row + outputs[0], values, sizeof values);
    } else {
      for (int o = 0; o < count; ++o) row[outputs[o]] = values[o];
    }
  }
}

template <class F>
void with_type(Type type, F f) {
  switch (type) {
    case Type::kFloat32:
      return f(float());
    case Type::kBFloat16:
      return f(BFloat16());
    case Type::kFloat16:
      return f(Float16());
  }
}

inline void quantize_rows(const Input& x, const Rows& q, int64_t first, int64_t last) {
  const std::unique_ptr<float[]> rotated(new float[size_t(q.features)]);
  with_type(x.type, [&](auto t) {
    for (int64_t r = first; r < last; ++r) quantize_row<decltype(t)>(x, q, r, rotated.get());
  });
}

inline void finish_tile(const int32_t* acc, const Rows& q, int64_t first, int m, int64_t tile, int bits,
                        const Output& y) {
  with_type(y.type, [&](auto t) { finish_rows<decltype(t)>(acc, q, first, m, tile, bits, y); });
}

}  // namespace
}  // namespace vlaq

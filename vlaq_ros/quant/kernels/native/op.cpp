// Registers the driver as the operator's CPU implementation, through PyTorch's stable ABI: one build serves every
// version from 2.10 on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <functional>
#include <numeric>
#include <optional>
#include <vector>

#include "linear.h"
#include "tiles.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

int type_number(ScalarType type) {
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "nested_linear takes float32, bfloat16 or float16 activations");
  return type == ScalarType::Float ? 0 : type == ScalarType::BFloat16 ? 1 : 2;
}

template <class T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

void check(const Tensor& tensor, ScalarType type, int64_t least, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous() && tensor.numel() >= least,
                  "nested_linear: ", name, " has the wrong type, strides or size");
}

Tensor nested_linear(const Tensor& x, const Tensor& hi, const Tensor& lo, const Tensor& scale,
                     const std::optional<Tensor>& rows, const std::optional<Tensor>& bias,
                     const std::vector<int64_t>& groups, int64_t block, int64_t out_features) {
  using vlaq::kBlock, vlaq::kBlockBytes, vlaq::kTileRows;
  const int type = type_number(x.scalar_type());
  STD_TORCH_CHECK(hi.dim() == 3 && lo.dim() == 3 && hi.size(1) > 0,
                  "nested_linear: planes are [tiles, blocks, 512] on a CPU");
  STD_TORCH_CHECK(block == 16 || block == 32 || block == 64, "nested_linear: block is ", block, ", not 16, 32 or 64");
  const int64_t blocks = hi.size(1), features = x.size(x.dim() - 1);
  STD_TORCH_CHECK(features <= blocks * kBlock, "nested_linear: x has ", features, " features, the weight fewer");
  int64_t tiles = 0, lo_tiles = 0;
  for (size_t g = 0; g + 1 < groups.size(); g += 2) {
    tiles += groups[g];
    if (groups[g + 1] == 8) lo_tiles = tiles;
  }
  check(hi, ScalarType::Byte, tiles * blocks * kBlockBytes, "hi");
  check(lo, ScalarType::Byte, lo_tiles * blocks * kBlockBytes, "lo");
  check(scale, ScalarType::Float, tiles * kTileRows, "scale");
  if (rows) check(*rows, ScalarType::Int, tiles * kTileRows, "rows");
  const std::optional<Tensor> bias32 =
      bias && bias->scalar_type() != ScalarType::Float ? torch::stable::to(*bias, ScalarType::Float) : bias;
  if (bias32) check(*bias32, ScalarType::Float, out_features, "bias");

  const bool strided_rows = x.dim() == 2 && x.stride(1) == 1;
  const Tensor input = strided_rows || x.is_contiguous() ? x : torch::stable::contiguous(x);
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.pop_back();
  const int64_t m = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  sizes.push_back(out_features);
  Tensor y = torch::stable::empty(sizes, x.scalar_type());
  vlaq_nested_linear(input.data_ptr(), type, m, features, strided_rows ? x.stride(0) : features, data<uint8_t>(hi),
                     data<uint8_t>(lo), blocks, data<float>(scale), data<int32_t>(rows), data<float>(bias32),
                     groups.data(), int64_t(groups.size() / 2), block, out_features, y.data_ptr(),
                     [](int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
                       torch::stable::parallel_for(0, n, grain, [=](int64_t begin, int64_t end) {
                         body(context, begin, end);
                       });
                     });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(vlaq, CPU, m) { m.impl("nested_linear", TORCH_BOX(&nested_linear)); }

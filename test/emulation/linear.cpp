// Runs the driver on the case of its standard input and writes y to its output. A case is the type of x and y, M, K,
// the stride of x, the blocks, the block of the rotation and the output features as int64, then x, hi, lo, scale, rows,
// bias and groups, each after its number of bytes; nothing for what is null.
#include "linear.h"

#include <cstdio>
#include <cstdlib>
#include <string>

static void read(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(1);
}

template <class T>
struct Array {
  std::string bytes;

  Array() {
    int64_t size;
    read(&size, sizeof size);
    bytes.resize(size_t(size));
    read(bytes.data(), bytes.size());
  }
  const T* data() const { return bytes.empty() ? nullptr : reinterpret_cast<const T*>(bytes.data()); }
};

int main() {
  int64_t header[7];
  read(header, sizeof header);
  const auto [type, M, K, stride, blocks, block, out_features] = header;
  const Array<char> x;
  const Array<uint8_t> hi, lo;
  const Array<float> scale;
  const Array<int32_t> rows;
  const Array<float> bias;
  const Array<int64_t> groups;
  std::string y(size_t(M * out_features * (type == 0 ? 4 : 2)), '\0');
  vlaq_nested_linear(x.data(), int(type), M, K, stride, hi.data(), lo.data(), blocks, scale.data(), rows.data(),
                     bias.data(), groups.data(), int64_t(groups.bytes.size() / 16), block, out_features, y.data(),
                     nullptr);
  std::fwrite(y.data(), 1, y.size(), stdout);
}

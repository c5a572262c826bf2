#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace vlaq {
namespace {

#if defined(__x86_64__)
bool has_amx() {
  unsigned a, b, c, d;
  constexpr unsigned kTileAndInt8 = 1u << 24 | 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTileAndInt8) != kTileAndInt8) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // Linux keeps the tile registers from who does not ask
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa choose() {
  if (!__builtin_cpu_supports("avx2")) {
    return {"x86 portable", panel_portable, panel_portable, 1, 1024, quantize_portable, finish_portable};
  }
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl")) {
    return {"x86 avx2", panel_avx2, panel_avx2, 1, 256, quantize_avx2, finish_avx2};
  }
  if (!has_amx()) return {"x86 avx512-vnni", panel_avx512vnni, panel_avx512vnni, 1, 1024, quantize_avx2, finish_avx2};
  return {"x86 avx512-vnni + amx", panel_avx512vnni, panel_amx, 9, 1024, quantize_avx2, finish_avx2};
}
#elif defined(__aarch64__)
Isa choose() {
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) {
    return {"aarch64 sdot", panel_sdot, panel_sdot, 1, 1024, quantize_portable, finish_portable};
  }
  return {"aarch64 portable", panel_portable, panel_portable, 1, 1024, quantize_portable, finish_portable};
}
#else
Isa choose() { return {"portable", panel_portable, panel_portable, 1, 1024, quantize_portable, finish_portable}; }
#endif

}  // namespace

const Isa& isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace vlaq

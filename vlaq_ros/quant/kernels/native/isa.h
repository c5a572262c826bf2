// What runs on this processor.
#pragma once

#include "rows.h"
#include "tiles.h"

namespace vlaq {

struct Isa {
  const char* name;
  Panel few_rows;
  Panel many_rows;
  int many;            // rows from which many_rows is the faster
  int64_t panel_rows;  // at most: more of them share the codes that a panel unpacks, fewer stay in a cache
  Quantize quantize;
  Finish finish;
};

const Isa& isa();  // chosen on first use

}  // namespace vlaq

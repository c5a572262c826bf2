// What runs on this processor.
#pragma once

#include "rows.h"
#include "tiles.h"

namespace vlaq {

struct Isa {
  const char* name;
  Panel few_rows;
  Panel many_rows;
  int many;  // rows from which many_rows is the faster
  Quantize quantize;
  Finish finish;
};

const Isa& isa();  // chosen on first use

}  // namespace vlaq

// All that the kernels use of the standard library, included before an instruction set is chosen.

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "calls.h"
#include "team.h"

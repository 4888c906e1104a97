#define MC_ISA baseline
#define MC_WIDTH 4
#include "score.hpp"

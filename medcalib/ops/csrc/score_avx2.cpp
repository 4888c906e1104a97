#define MC_ISA avx2
#define MC_WIDTH 8
#include "score.hpp"

#define MC_ISA avx512
#define MC_WIDTH 16
#include "score.hpp"

// libcurand: generators can be made and destroyed, as candle does for every device; drawing from one is not emulated.
#include "runtime.h"

#define CUDA_API extern "C" EMULATED_EXPORT

CUDA_API int curandCreateGenerator(void** generator, int) {
    *generator = new char;
    return 0;
}
CUDA_API int curandDestroyGenerator(void* generator) {
    delete static_cast<char*>(generator);
    return 0;
}
CUDA_API int curandSetStream(void*, void*) { return 0; }
CUDA_API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
CUDA_API int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }

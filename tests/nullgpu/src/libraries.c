// The functions of cuBLAS, cuSOLVER and cuSPARSE whose results PyTorch reads on the host: handles, modes, algorithms.
// All others are generated (build.py).
#include "nullgpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int status;  // 0 is success in each of the libraries

static status make(void **handle) {
    *handle = calloc(1, 64);
    return 0;
}

status cublasCreate_v2(void **handle) { return make(handle); }

status cusolverDnCreate(void **handle) { return make(handle); }

status cusparseCreate(void **handle) { return make(handle); }

status cublasGetMathMode(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

status cublasGetPointerMode_v2(void *handle, int *mode) {
    *mode = 0;
    return 0;
}

size_t cublasLtGetVersion(void) { return 130000; }

status cublasLtMatmulDescCreate(void **descriptor, int compute_type, int scale_type) { return make(descriptor); }

status cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return make(layout);
}

status cublasLtMatmulPreferenceCreate(void **preference) { return make(preference); }

// One algorithm, which needs no workspace.
status cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d,
                                      void *preference, int wanted, void *results, int *found) {
    memset(results, 0, 96);  // sizeof(cublasLtMatmulHeuristicResult_t)
    *found = 1;
    return 0;
}

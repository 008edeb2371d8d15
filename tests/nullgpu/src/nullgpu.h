// The counters, which all sources share.
#pragma once
#include <stddef.h>

// The order is that of COUNTERS in device.py.
enum counter {
    N_LAUNCH,    // kernels of PyTorch
    N_BLAS,      // products and factorisations of cuBLAS, cuSOLVER, cuSPARSE
    N_NCCL,      // collectives
    N_COPY,      // copies in any direction
    N_FILL,      // memsets
    N_PAGEABLE,  // copies from host memory that is not pinned to the device
    N_ASIDE,     // copies to the device on another stream than the default
    N_WAIT,      // the host waits for a stream, an event or the device; a blocking copy is one wait
    N_OTHER,     // calls of libraries that queue nothing: handles, descriptors, sizes of workspaces
    N_COUNT
};

// Count a call.
void nullgpu_hit(const char *name, enum counter kind);

// Return an environment variable as a number (0x.. is hexadecimal), or `otherwise`.
long nullgpu_env(const char *name, long otherwise);

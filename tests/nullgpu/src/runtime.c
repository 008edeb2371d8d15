// libcudart, as far as training with PyTorch calls it, of a device that computes nothing.
//
// Device memory is host memory. A stream and an event are a pointer to nothing. All work is over at once. Kernels are
// counted and not run. Copies and fills of up to DONE_LIMIT bytes are done, so small data that the host sends comes back;
// larger ones are only counted, and larger new memory is not filled. Graphs, memory pools and IPC stay with the real libcudart, which fails without a driver.
#define _GNU_SOURCE
#include "nullgpu.h"

#include <cuda_runtime_api.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OK cudaSuccess
#define GIB (1ul << 30)
#define DONE_LIMIT (1ul << 20)  // bytes

// Define a function that does nothing and succeeds.
#define NOTHING(name, ...) \
    cudaError_t name(__VA_ARGS__) { return OK; }

// ---------------------------------------------------------------- counters
static long counts[N_COUNT];
static void (*watcher)(int kind);

long nullgpu_env(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value && *value ? strtol(value, NULL, 0) : otherwise;
}

void nullgpu_hit(const char *name, enum counter kind) {
    static int verbose = -1;
    __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
    if (verbose < 0) verbose = nullgpu_env("NULLGPU_VERBOSE", 0);
    if (verbose) fprintf(stderr, "nullgpu %s\n", name);
    if (watcher && (kind == N_WAIT || kind == N_PAGEABLE)) watcher(kind);
}

long nullgpu_count(int kind) { return counts[kind]; }

// Call a function at each wait and each copy from pageable memory, on the thread that makes it; NULL: no longer.
void nullgpu_watch(void (*function)(int kind)) { watcher = function; }

// The byte that new device memory is full of, and so in effect the result of every kernel. 0x3f, the default, is true as
// a bool, 0.747 as a float32 and no valid index as an integer; 0 is false, 0.0 and a valid index.
static int filling = -1;

int nullgpu_fill(int byte) {
    int before = filling < 0 ? nullgpu_env("NULLGPU_FILL", 0x3f) : filling;
    filling = byte;
    return before;
}

// ---------------------------------------------------------------- the device: an H100's figures
static __thread int current;

cudaError_t cudaGetDeviceCount(int *count) {
    *count = nullgpu_env("NULLGPU_COUNT", 1);
    return OK;
}

// A fork of a process that has used the device cannot use it, and so cannot destroy an event either.
static pid_t owner;

static cudaError_t usable(void) {
    if (!owner) owner = getpid();
    return owner == getpid() ? OK : cudaErrorInitializationError;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return usable();
}

cudaError_t cudaSetDevice(int device) {
    current = device;
    return usable();
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return OK;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NullGPU (H100's shape, computes nothing)");
    p->major = 9;
    p->minor = 0;
    p->totalGlobalMem = 80 * GIB;
    p->multiProcessorCount = 132;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = 232448;
    p->sharedMemPerMultiprocessor = 233472;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->textureAlignment = 512;
    p->unifiedAddressing = p->managedMemory = p->concurrentKernels = 1;
    return OK;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount: *value = 132; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
        case cudaDevAttrMaxThreadsPerBlock:
        case cudaDevAttrMaxBlockDimX:
        case cudaDevAttrMaxBlockDimY: *value = 1024; break;
        case cudaDevAttrMaxBlockDimZ: *value = 64; break;
        case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
        default: *value = 0;
    }
    return OK;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, length, "0000:00:%02x.0", device);
    return OK;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = 0;
    return OK;
}

// ---------------------------------------------------------------- memory
static long held, most;  // bytes of device memory, now and at most

static void hold(long bytes) {
    long now = __atomic_add_fetch(&held, bytes, __ATOMIC_RELAXED);
    if (now > most) most = now;
}

// Return how many bytes of device memory were held at most since the last call, and how many are now.
void nullgpu_memory(long *peak, long *now) {
    *peak = most;
    *now = most = held;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    *pointer = NULL;
    if (posix_memalign(pointer, 512, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    hold(malloc_usable_size(*pointer));
    if (filling < 0) nullgpu_fill(nullgpu_fill(0));  // the default
    if (bytes <= DONE_LIMIT) memset(*pointer, filling, bytes);
    return OK;
}

cudaError_t cudaFree(void *pointer) {
    hold(-(long)malloc_usable_size(pointer));
    free(pointer);
    return OK;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = nullgpu_env("NULLGPU_FREE", 70 * GIB);
    *total = 80 * GIB;
    return OK;
}

// Pinned memory: a list of what is allocated. PyTorch keeps its blocks and divides them, so the list is short.
typedef struct block {
    char *begin;
    size_t bytes;
    struct block *next;
} Block;

static Block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static int is_pinned(const char *pointer) {
    pthread_mutex_lock(&blocks_lock);
    Block *b = blocks;
    while (b && !(b->begin <= pointer && pointer < b->begin + b->bytes)) b = b->next;
    pthread_mutex_unlock(&blocks_lock);
    return b != NULL;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    Block *b = malloc(sizeof *b);
    *pointer = NULL;
    if (!b || posix_memalign(pointer, 4096, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    pthread_mutex_lock(&blocks_lock);
    *b = (Block){.begin = *pointer, .bytes = bytes, .next = blocks};
    blocks = b;
    pthread_mutex_unlock(&blocks_lock);
    return OK;
}

cudaError_t cudaFreeHost(void *pointer) {
    pthread_mutex_lock(&blocks_lock);
    for (Block **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->begin == pointer) {
            Block *b = *at;
            *at = b->next;
            free(b);
            break;
        }
    pthread_mutex_unlock(&blocks_lock);
    free(pointer);
    return OK;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = is_pinned(pointer) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    return OK;
}

static void count_copy(const char *name, const void *from, enum cudaMemcpyKind kind, cudaStream_t stream) {
    nullgpu_hit(name, N_COPY);
    if (kind == cudaMemcpyHostToDevice && stream) nullgpu_hit(name, N_ASIDE);
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) nullgpu_hit(name, N_PAGEABLE);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    count_copy("cudaMemcpyAsync", from, kind, stream);
    if (bytes <= DONE_LIMIT) memmove(to, from, bytes);
    return OK;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    count_copy("cudaMemcpy", from, kind, NULL);
    nullgpu_hit("cudaMemcpy", N_WAIT);
    memmove(to, from, bytes);
    return OK;
}

cudaError_t cudaMemcpyPeerAsync(void *to, int device, const void *from, int source, size_t bytes, cudaStream_t stream) {
    count_copy("cudaMemcpyPeerAsync", from, cudaMemcpyDeviceToDevice, stream);
    memmove(to, from, bytes);
    return OK;
}

NOTHING(cudaMemcpyToSymbol, const void *symbol, const void *from, size_t bytes, size_t offset, enum cudaMemcpyKind kind)

cudaError_t cudaMemset(void *pointer, int value, size_t bytes) {
    nullgpu_hit("cudaMemset", N_FILL);
    memset(pointer, value, bytes);
    return OK;
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream) {
    nullgpu_hit("cudaMemsetAsync", N_FILL);
    if (bytes <= DONE_LIMIT) memset(pointer, value, bytes);
    return OK;
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
    *pointer = calloc(1, 4096);
    return OK;
}

// ---------------------------------------------------------------- streams
static cudaError_t make(void **handle) {
    *handle = calloc(1, 64);  // never freed: PyTorch keeps its streams, and pools its events
    return OK;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return make((void **)stream); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return make((void **)stream); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    return make((void **)stream);
}

NOTHING(cudaStreamDestroy, cudaStream_t stream)
NOTHING(cudaStreamQuery, cudaStream_t stream)
NOTHING(cudaStreamWaitEvent, cudaStream_t stream, cudaEvent_t event, unsigned flags)
NOTHING(cudaThreadExchangeStreamCaptureMode, enum cudaStreamCaptureMode *mode)

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return OK;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) {
    *priority = 0;
    return OK;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return OK;
}

// CUDA 13 added the edges. What follows the id is left alone, which is right while nothing is captured.
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count) {
#else
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **dependencies, size_t *count) {
#endif
    *status = cudaStreamCaptureStatusNone;
    if (id) *id = 0;
    return OK;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void *data, unsigned flags) {
    callback(stream, OK, data);
    return OK;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    function(data);
    return OK;
}

// ---------------------------------------------------------------- waiting
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    nullgpu_hit("cudaStreamSynchronize", N_WAIT);
    return OK;
}

cudaError_t cudaDeviceSynchronize(void) {
    nullgpu_hit("cudaDeviceSynchronize", N_WAIT);
    return OK;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    nullgpu_hit("cudaEventSynchronize", N_WAIT);
    return OK;
}

// ---------------------------------------------------------------- events
cudaError_t cudaEventCreate(cudaEvent_t *event) { return make((void **)event); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { return make((void **)event); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return OK;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    return OK;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = 1.0f;  // of no meaning
    return OK;
}

NOTHING(cudaEventDestroy, cudaEvent_t event)
NOTHING(cudaEventQuery, cudaEvent_t event)
NOTHING(cudaGetLastError, void)
NOTHING(cudaPeekAtLastError, void)

// ---------------------------------------------------------------- kernels
cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t stream) {
    nullgpu_hit("cudaLaunchKernel", N_LAUNCH);
    return OK;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    nullgpu_hit("cudaLaunchKernelExC", N_LAUNCH);
    return OK;
}

// What nvcc 13 makes of kernel<<<...>>>().
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t stream) {
    nullgpu_hit("__cudaLaunchKernel", N_LAUNCH);
    return OK;
}

cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *function) {
    *kernel = (cudaKernel_t)function;
    return OK;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *kernel) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->binaryVersion = attributes->ptxVersion = 90;
    attributes->maxDynamicSharedSizeBytes = 232448;
    return OK;
}

NOTHING(cudaFuncSetAttribute, const void *kernel, enum cudaFuncAttribute attribute, int value)

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *kernel, int threads, size_t shared) {
    *blocks = 2;
    return OK;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *kernel, int threads,
                                                                   size_t shared, unsigned flags) {
    *blocks = 2;
    return OK;
}

// PyTorch falls back, or does without.
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    *function = NULL;
    if (result) *result = cudaDriverEntryPointSymbolNotFound;
    return cudaErrorNotSupported;
}

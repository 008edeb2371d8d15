// libcuda.so.1, the driver. PyTorch opens it by name and asks whether there is a context. All else is generated
// (build.py) and does nothing: kernels that are compiled at run time do not get as far.
static int context;

int cuCtxGetCurrent(void **current) {
    *current = &context;
    return 0;
}

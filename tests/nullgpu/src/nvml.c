// libnvidia-ml: how many devices there are, which PyTorch asks here if it is not to start the driver.
#include <stdlib.h>

int nvmlInit(void) { return 0; }

int nvmlDeviceGetCount_v2(int *count) {
    const char *text = getenv("NULLGPU_COUNT");
    *count = text ? atoi(text) : 1;
    return 0;
}

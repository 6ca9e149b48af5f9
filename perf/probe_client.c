#include "perf/probe.h"
int probe_client(void) {
    return 1;
}

#include "perf/probe.h"
int probe_echo(void) {
    return 1;
}

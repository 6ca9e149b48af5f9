/* Writes docs/configuration.md to stdout. */
#include "config/config.h"

int main(void) {
    config_print_markdown(stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}

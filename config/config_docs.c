/* Writes docs/configuration.md to stdout; `config-docs PROGRAM` writes that program's man page. */
#include "config/config.h"

int main(int argc, char **argv) {
    if (argc == 1)
        config_print_markdown(stdout);
    else if (!config_print_man(argv[1], stdout))
        return 2;
    return fflush(stdout) == 0 ? 0 : 1;
}

/* A program's man page and its --help name the same flags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

#define FLAGS_MAX 128

struct flags {
    char names[FLAGS_MAX][48];
    uint32_t count;
};

static bool flags_have(const struct flags *flags, const char *name) {
    for (uint32_t i = 0; i < flags->count; i++)
        if (strcmp(flags->names[i], name) == 0)
            return true;
    return false;
}

/* Each --name of the text, once; roff's backslashes are passed over. */
static void flags_read(struct flags *flags, const char *text) {
    flags->count = 0;
    for (const char *at = text; *at; at++) {
        char name[48];
        size_t length = 0;
        for (const char *c = at; length + 1 < sizeof name; c++) {
            if (*c == '\\' && c[1] == '-')
                c++;
            if (*c != '-' && !islower((unsigned char)*c))
                break;
            name[length++] = *c;
        }
        name[length] = '\0';
        if (strncmp(name, "--", 2) != 0 || !islower((unsigned char)name[2]) ||
            (at > text && at[-1] == '-') || flags_have(flags, name))
            continue;
        assert_true(flags->count < FLAGS_MAX);
        strcpy(flags->names[flags->count++], name);
    }
}

static void compare(enum config_program program) {
    static struct flags help, man;
    char *text;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    config_print_help(program, out);
    fclose(out);
    flags_read(&help, text);
    free(text);
    out = open_memstream(&text, &bytes);
    assert_true(config_print_man(config_program_name(program), out));
    fclose(out);
    flags_read(&man, text);
    free(text);
    assert_true(help.count > 15);
    for (uint32_t i = 0; i < help.count; i++)
        if (!flags_have(&man, help.names[i]))
            fail_msg("%s: the page lacks %s", config_program_name(program), help.names[i]);
    for (uint32_t i = 0; i < man.count; i++)
        if (!flags_have(&help, man.names[i]))
            fail_msg("%s: --help lacks %s", config_program_name(program), man.names[i]);
}

static void test_the_page_and_help_name_the_same_flags(void **state) {
    (void)state;
    compare(CONFIG_NODE);
    compare(CONFIG_GATEWAY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_page_and_help_name_the_same_flags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

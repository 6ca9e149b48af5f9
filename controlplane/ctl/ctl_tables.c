#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/ctl/ctl.h"

const char *ctl_text(const json_t *object, const char *name) {
    static char buffers[16][128];
    static unsigned next;
    char *buffer = buffers[next++ % 16];
    const json_t *value = json_object_get(object, name);
    if (json_is_string(value))
        snprintf(buffer, sizeof buffers[0], "%.127s", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(buffer, sizeof buffers[0], "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_boolean(value))
        snprintf(buffer, sizeof buffers[0], "%s", json_is_true(value) ? "yes" : "no");
    else
        snprintf(buffer, sizeof buffers[0], "%s", value ? "-" : "");
    for (char *p = buffer; *p; p++)
        if ((unsigned char)*p < ' ')
            *p = '?';
    return buffer;
}

uint64_t ctl_number(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    if (json_is_integer(value))
        return (uint64_t)json_integer_value(value);
    return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10) : 0;
}

static void *must(void *memory) {
    if (!memory) {
        fprintf(stderr, "maroonctl: out of memory\n");
        exit(1);
    }
    return memory;
}

void ctl_table_row(struct ctl_table *table, int column_count, ...) {
    va_list cells;
    if (table->row_count == table->row_capacity) {
        table->row_capacity = table->row_capacity ? 2 * table->row_capacity : 16;
        table->cells = must(realloc(table->cells, (size_t)table->row_capacity * CTL_COLUMNS_MAX *
                                                      sizeof *table->cells));
    }
    table->column_count = column_count;
    va_start(cells, column_count);
    for (int i = 0; i < column_count; i++)
        table->cells[table->row_count * CTL_COLUMNS_MAX + i] =
            must(strdup(va_arg(cells, const char *)));
    va_end(cells);
    table->row_count++;
}

void ctl_table_print(struct ctl_table *table, FILE *out) {
    for (int row = 0; row < table->row_count; row++) {
        for (int column = 0; column < table->column_count; column++) {
            int width = 0;
            for (int i = 0; i < table->row_count; i++) {
                int length = (int)strlen(table->cells[i * CTL_COLUMNS_MAX + column]);
                width = length > width ? length : width;
            }
            const char *cell = table->cells[row * CTL_COLUMNS_MAX + column];
            if (column + 1 == table->column_count)
                fprintf(out, "%s\n", cell);
            else
                fprintf(out, "%-*s  ", width, cell);
        }
    }
    for (int i = 0; i < table->row_count; i++)
        for (int column = 0; column < table->column_count; column++)
            free(table->cells[i * CTL_COLUMNS_MAX + column]);
    free(table->cells);
    *table = (struct ctl_table){0};
}

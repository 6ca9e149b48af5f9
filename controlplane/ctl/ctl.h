/* ctl: what the commands of maroonctl share. One thread, blocking. */
#ifndef MAROON_CTL_H
#define MAROON_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define CTL_NODES_MAX 16

struct ctl_options {
    const char *nodes[CTL_NODES_MAX]; /* admin addresses "host:port" */
    int node_count;
    bool json, handover, follow, raise;
    uint64_t count; /* of lines or rounds; 0: the command's own */
};

/* GET or POST http://address/path. Returns the HTTP status with *ret_body (caller frees), or 0 when
 * nobody answered; then *ret_body says why. NULL without memory. */
long ctl_http(const char *address, const char *method, const char *path, char **ret_body);

long ctl_http_wait(const char *address, const char *method, const char *path, uint32_t timeout_ms,
                   char **ret_body);

/* /v1/status of every node, by its place in the options; NULL where there was no answer (said on
 * stderr). Returns how many answered. */
int ctl_statuses(const struct ctl_options *options, json_t *ret_statuses[CTL_NODES_MAX]);
void ctl_statuses_free(json_t *statuses[CTL_NODES_MAX]);

/* A member as text or number whatever its JSON type; "" or 0 when absent. Uses one of 16 buffers.
 */
const char *ctl_text(const json_t *object, const char *name);
uint64_t ctl_number(const json_t *object, const char *name);

/* Commands; return the exit status. */
int ctl_status(const struct ctl_options *options);
int ctl_leader(const struct ctl_options *options);
int ctl_epochs(const struct ctl_options *options);
int ctl_top(const struct ctl_options *options);
int ctl_term_base(const struct ctl_options *options);
/* A line for each alarm of a node; status may be NULL. */
void ctl_alarms_print(const json_t *status);
int ctl_ranges(const struct ctl_options *options);
/* Reads the journal in `directory` without changing it; says where it is damaged. */
int ctl_verify(const struct ctl_options *options, const char *directory);

/* All of `maroonctl dump ...` and `maroonctl bootstrap ...`, which take the store's keys. */
int ctl_dump(int argc, char **argv);

/* A table whose columns are as wide as their widest cell. */
#define CTL_COLUMNS_MAX 12
struct ctl_table {
    int column_count, row_count, row_capacity;
    char **cells; /* row by row; the first row is the heading */
};
void ctl_table_row(struct ctl_table *table, int column_count, ...); /* const char * each */
void ctl_table_print(struct ctl_table *table, FILE *out);           /* and frees it */

#endif

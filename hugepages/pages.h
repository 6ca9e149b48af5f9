/* pages: the kernel's pools of hugepages, one for each NUMA node and page size, and what this tool
 * put into them.
 *
 *   pages_reserve --> the pool has more pages, all or none --> pages_release --> as it was before
 *
 * What was added is written to /run/maroon-hugepages (under the root), so that it can be given back
 * exactly, whatever others reserved meanwhile. Threads: one; processes exclude each other by a lock
 * on that file (record_open). Errors: as system.h, MRN_ERR_NO_MEMORY (fewer came; then none is
 * kept) and MRN_ERR_FULL (pages in use cannot be given back), with a sentence in `ret_why`
 * (PAGES_WHY_BYTES) that says what to do. */
#ifndef MAROON_HUGEPAGES_PAGES_H
#define MAROON_HUGEPAGES_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "hugepages/system.h"

#define PAGES_WHY_BYTES 640
#define RECORD_ENTRIES_MAX 32

struct pages {
    uint32_t node, size_kb;
    uint64_t total, free; /* pages */
    bool per_node;        /* false: a kernel without NUMA, one pool for all */
};

/* One pool. MRN_ERR_NOT_FOUND: this kernel or CPU has no pages of that size, or no such node. */
int pages_read(const struct system *system, uint32_t node, uint32_t size_kb,
               struct pages *ret_pages);

/* Adds `count` pages to the pool. When the kernel gives fewer, it is asked to compact memory, once
 * more; then all are given back, and *ret_why tells too little memory from too fragmented. */
int pages_reserve(const struct system *system, const struct pages *pages, uint64_t count,
                  char *ret_why);

/* Takes `count` pages away again; refuses when fewer are free. */
int pages_release(const struct system *system, const struct pages *pages, uint64_t count,
                  char *ret_why);

/* Tries whether `count` pages can really be had, by writing to each of them: a number in a file is
 * not leave. Of this machine, whatever the root of a `system`. Returns 0 or MRN_ERR_NO_MEMORY. */
int pages_try(uint32_t size_kb, uint64_t count);

/* ---- what was done ---- */

struct record_entry {
    bool is_mount, made; /* made: so was the mount's directory */
    uint32_t node, size_kb;
    uint64_t count;
    char mount[256];
};

struct record {
    int file;
    char path[SYSTEM_PATH_BYTES];
    struct record_entry entries[RECORD_ENTRIES_MAX];
    uint32_t count;
};

/* Opens and locks the record; reads what is in it. Returns 0, MRN_ERR_DENIED, MRN_ERR_IO,
 * MRN_ERR_MALFORMED. `create`: false reads only, and no file is an empty record. */
int record_open(const struct system *system, bool create, struct record *ret_record);
/* Pages of a pool that the record has. */
uint64_t record_pages(const struct record *record, uint32_t node, uint32_t size_kb);
/* Adds to an entry or makes one. Returns 0 or MRN_ERR_FULL. */
int record_add_pages(struct record *record, uint32_t node, uint32_t size_kb, uint64_t count);
int record_add_mount(struct record *record, const char *path, bool made);
/* Writes it (an empty one removes the file). Returns 0 or MRN_ERR_IO. */
int record_save(struct record *record);
void record_close(struct record *record);

#endif

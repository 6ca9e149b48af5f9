/* Shared by the journal's tests: a data directory of their own, records with known bytes. */
#ifndef MAROON_JOURNAL_TEST_H
#define MAROON_JOURNAL_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dataplane/journal/journal.h"
#include "dataplane/journal/journal_faults.h"
#include "dataplane/journal/journal_format.h"

struct test_store {
    char directory[256];
    struct journal_config config;
    struct journal *journal;
    char text[JOURNAL_TEXT_BYTES];
    uint64_t replayed, replay_from; /* records seen by the last open; position of the first */
};

/* Makes an empty directory under $TMPDIR or /tmp; small segments and batches. */
void test_store_make(struct test_store *store);
void test_store_make_in(struct test_store *store, const char *parent);

/* Closes the journal, removes the directory. */
void test_store_remove(struct test_store *store);

/* journal_open; every record is compared with what test_append writes at its position. */
int test_open(struct test_store *store);
void test_close(struct test_store *store);

/* Length and bytes of the record at a position. */
uint32_t test_length(uint64_t position);
void test_fill(uint8_t *bytes, uint64_t position);

/* Appends one record; FULL and errors are returned. */
int test_append(struct test_store *store, int urgent);

/* Appends `count` records and polls until all are stable. */
void test_append_stable(struct test_store *store, uint32_t count);

/* Polls until everything is stable, or the journal failed (then returns its error). */
int test_settle(struct test_store *store);

uint64_t test_now_ns(void);

/* Path of a file of the store. */
void test_path(const struct test_store *store, const char *name, char path[512]);

/* Copies the store's files into an empty directory `to`. */
void test_copy(const struct test_store *from, const struct test_store *to);

/* Changes bytes of a file. */
void test_poke(const struct test_store *store, const char *name, uint64_t offset, const void *bytes,
               uint32_t length_bytes);
void test_peek(const struct test_store *store, const char *name, uint64_t offset, void *bytes,
               uint32_t length_bytes);

#endif

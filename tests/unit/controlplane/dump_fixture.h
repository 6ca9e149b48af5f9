/* dump_fixture: a directory with an object store in it, snapshot files as a node writes them, and
 * dumps of them; for the tests that need dumps and no node. Failures end the test. */
#ifndef MAROON_TEST_DUMP_FIXTURE_H
#define MAROON_TEST_DUMP_FIXTURE_H

#include <stdint.h>

#include "controlplane/dump/dump_write.h"

struct dump_fixture {
    char dir[64];
    char url[96];      /* "dir:" of dir/objects, empty at first */
    char snapshot[96]; /* a file that is not there at first */
};

void dump_fixture_make(struct dump_fixture *fixture);
void dump_fixture_remove(const struct dump_fixture *fixture);

/* Writes fixture->snapshot as the runtime does (runtime/SNAPSHOT.md): `region` of `pages` pages,
 * those that are all zero left out. What `head` says of the format is filled in. */
void dump_fixture_snapshot(const struct dump_fixture *fixture, struct snapshot_head head,
                           const uint8_t *region, uint64_t pages);

/* Dumps fixture->snapshot: dump_write's value and text. */
int dump_fixture_write(const struct dump_fixture *fixture, struct dump_writer *writer,
                       struct dump_report *ret_report, char *ret_text);

uint64_t dump_fixture_now_ns(void); /* monotonic */

#endif

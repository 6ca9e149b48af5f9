#include "dataplane/stages/marks.h"

#ifdef MAROON_PERF_MARKS
#    include <fcntl.h>
#    include <stdlib.h>
#    include <sys/mman.h>
#    include <unistd.h>

static uint64_t own_marks[STAGE_MARK_COUNT];
uint64_t *stage_marks = own_marks;

/* Before main: a process that cannot map the file keeps marks of its own, which then never meet. */
__attribute__((constructor)) static void share(void) {
    const char *path = getenv("PERF_MARKS_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof own_marks, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        stage_marks = shared;
}
#endif

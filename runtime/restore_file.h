/* restore_file: runtime_restore from a file, by as many threads as there are processors.
 *
 * A shell around the runtime, which has neither. Threads: the caller's, and up to three more until
 * it returns; they run where this process may, also when the caller is bound to one processor.
 * Errors: those of runtime_restore; IO: the file cannot be read. */
#ifndef MAROON_RUNTIME_RESTORE_FILE_H
#define MAROON_RUNTIME_RESTORE_FILE_H

#include "runtime/runtime.h"

/* `fd`: open for reading; its position does not matter and stays. */
int runtime_restore_file(struct runtime *runtime, int fd, struct runtime_snapshot_info *ret_info);

#endif

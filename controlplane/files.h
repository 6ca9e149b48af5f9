/* files: small files of data_dir, replaced as a whole. They block (a few ms for the sync).
 * Any thread. Errors: MRN_ERR_NOT_FOUND, MRN_ERR_IO, MRN_ERR_TOO_LARGE, MRN_ERR_NO_MEMORY. */
#ifndef MAROON_FILES_H
#define MAROON_FILES_H

#include <stddef.h>

/* Reads dir/name of at most max_bytes; *ret_text is NUL-terminated and the caller's. */
int files_read(const char *dir, const char *name, size_t max_bytes, char **ret_text);

/* After 0 the file holds exactly these bytes, also after a crash; otherwise the old ones (or, after
 * MRN_ERR_IO from the directory's sync, either). */
int files_replace(const char *dir, const char *name, const void *bytes, size_t count);

/* Makes and locks dir/name for the life of the returned fd. MRN_ERR_EXISTS: another process has
 * it. */
int files_lock(const char *dir, const char *name, int *ret_fd);

#endif

/* log: one line per event on stderr, `time level event key=value ...`, for programs and the control
 * plane. Libraries return errors instead.
 *
 *   2026-03-01T12:00:00.123456Z info leader_key node=2 revision=77 ours=0
 *
 * Values with blanks, quotes or control characters are quoted. A line that repeats (same event,
 * from the same place) more than 10 times within 10 s is held back; the next one that passes says
 * how many were.
 * Threads: any; a line is written by one write(2). Never fails. */
#ifndef MAROON_LOG_H
#define MAROON_LOG_H

enum mrn_log_level { MRN_LOG_DEBUG = 0, MRN_LOG_INFO = 1, MRN_LOG_WARNING = 2, MRN_LOG_ERROR = 3 };

/* Lines below `level` are dropped. Default: MRN_LOG_INFO. */
void mrn_log_set_level(enum mrn_log_level level);
/* "debug", "info", "warning" (or "warn"), "error". Returns 0 or MRN_ERR_INVALID. */
int mrn_log_set_level_by_name(const char *name);

/* `event` names what happened (snake_case), `format` makes "key=value key=value"; use
 * mrn_log_quote for values that come from outside. */
#define mrn_log(level, event, ...) mrn_log_line((level), (event), __FILE__, __LINE__, __VA_ARGS__)
#define mrn_log_debug(event, ...) mrn_log(MRN_LOG_DEBUG, (event), __VA_ARGS__)
#define mrn_log_info(event, ...) mrn_log(MRN_LOG_INFO, (event), __VA_ARGS__)
#define mrn_log_warning(event, ...) mrn_log(MRN_LOG_WARNING, (event), __VA_ARGS__)
#define mrn_log_error(event, ...) mrn_log(MRN_LOG_ERROR, (event), __VA_ARGS__)

void mrn_log_line(enum mrn_log_level level, const char *event, const char *file, int line,
                  const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Quotes `text` for a value where needed. Returns one of 8 buffers of the calling thread (256 bytes
 * each; longer text is cut). */
const char *mrn_log_quote(const char *text);

#endif

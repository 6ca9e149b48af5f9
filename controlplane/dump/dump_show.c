#include "controlplane/dump/dump_show.h"

#include <inttypes.h>
#include <stdio.h>

#define LINE_NS UINT64_C(1000000000)

bool dump_show(struct dump_show *show, uint64_t now_ns, const struct dump_progress *progress,
               char ret_text[DUMP_SHOW_BYTES]) {
    static const char bar[] = "########################################";
    bool all = progress->pages_done == progress->pages;
    if (show->ended)
        return false;
    show->ended = all;
    if (!all && show->told_ns && now_ns - show->told_ns < LINE_NS / (show->terminal ? 10 : 1))
        return false;
    show->told_ns = now_ns;
    double seconds = (double)(now_ns - show->since_ns) / 1e9;
    uint64_t percent = progress->pages ? 100 * progress->pages_done / progress->pages : 100;
    double rate = seconds > 0 ? (double)progress->pages_done * 4096 / seconds / 1e6 : 0;
    if (show->terminal)
        snprintf(ret_text, DUMP_SHOW_BYTES, "\r[%-40.*s] %3" PRIu64 " %%  %7.1f MB/s",
                 (int)(percent * 40 / 100), bar, percent, rate);
    else
        snprintf(ret_text, DUMP_SHOW_BYTES,
                 "pages=%" PRIu64 " of=%" PRIu64 " fetched_bytes=%" PRIu64 " mb_per_s=%.1f",
                 progress->pages_done, progress->pages, progress->fetched_bytes, rate);
    return true;
}

#include "dataplane/stages/marks.h"

#ifdef MAROON_PERF_MARKS
uint64_t stage_marks[STAGE_MARK_COUNT];
#endif

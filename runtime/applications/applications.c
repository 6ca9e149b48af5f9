#include "runtime/applications/applications.h"

static const struct mrn_application *const APPLICATIONS[] = {&bank_application, &echo_application};

const struct mrn_application *const *applications_list(uint32_t *ret_count) {
    *ret_count = sizeof APPLICATIONS / sizeof APPLICATIONS[0];
    return APPLICATIONS;
}

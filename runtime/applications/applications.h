/* The applications that this build of node and gateway serves. Static data; any thread. */
#ifndef MAROON_RUNTIME_APPLICATIONS_H
#define MAROON_RUNTIME_APPLICATIONS_H

#include <maroon/application.h>

extern const struct mrn_application bank_application; /* bank.v1.Bank */
extern const struct mrn_application echo_application; /* echo.v1.Echo */

/* All of them, for runtime_config.applications and mrn_service_find. */
const struct mrn_application *const *applications_list(uint32_t *ret_count);

#endif

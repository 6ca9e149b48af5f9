/* echo.v1.Echo: gives back what it got; for large bodies. */
#include "runtime/applications/applications.h"

#include "echo/v1/echo.pb-c.h"

static enum mrn_code echo(struct mrn_context *context, const void *request, size_t request_bytes) {
    const Echo__V1__EchoRequest *message =
        mrn_decode(context, &echo__v1__echo_request__descriptor, request, request_bytes);
    if (message == NULL)
        return mrn_fail_decode(context);
    Echo__V1__EchoResponse response = ECHO__V1__ECHO_RESPONSE__INIT;
    response.payload = message->payload;
    return mrn_respond(context, &response.base);
}

static const struct mrn_method METHODS[] = {{"Echo", echo}};

static const struct mrn_service SERVICES[] = {
    {.descriptor = &echo__v1__echo__descriptor, .methods = METHODS, .method_count = 1}};

const struct mrn_application echo_application = {
    .name = "echo", .version = 1, .services = SERVICES, .service_count = 1};

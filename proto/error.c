#include <maroon/error.h>

const char *mrn_error_text(int error) {
    switch (error) {
#define MRN_ERROR(name, value, sentence) \
    case value:                          \
        return sentence;
#include <maroon/error.def>
#undef MRN_ERROR
    }
    return error >= 0 ? "ok" : "an error this build does not know";
}

const char *mrn_error_name(int error) {
    switch (error) {
#define MRN_ERROR(name, value, sentence) \
    case value:                          \
        return #name;
#include <maroon/error.def>
#undef MRN_ERROR
    }
    return error >= 0 ? "OK" : "UNKNOWN";
}

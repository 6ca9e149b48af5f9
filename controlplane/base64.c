#include "controlplane/base64.h"

#include "maroon/error.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void base64_encode(const void *bytes, size_t count, char *ret_text) {
    const unsigned char *in = bytes;
    while (count > 0) {
        size_t taken = count < 3 ? count : 3;
        uint32_t group = (uint32_t)in[0] << 16 | (taken > 1 ? (uint32_t)in[1] << 8 : 0) |
                         (taken > 2 ? in[2] : 0);
        ret_text[0] = alphabet[group >> 18];
        ret_text[1] = alphabet[group >> 12 & 63];
        ret_text[2] = taken > 1 ? alphabet[group >> 6 & 63] : '=';
        ret_text[3] = taken > 2 ? alphabet[group & 63] : '=';
        ret_text += 4;
        in += taken;
        count -= taken;
    }
    *ret_text = '\0';
}

static int digit(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(const char *text, size_t length, unsigned char *ret_bytes, size_t *ret_count) {
    if (length % 4 != 0)
        return MRN_ERR_MALFORMED;
    size_t count = 0;
    for (size_t i = 0; i < length; i += 4) {
        int last = i + 4 == length;
        int padding = last ? (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=') : 0;
        uint32_t group = 0;
        for (size_t j = 0; j < 4; j++) {
            int value = j >= 4 - (size_t)padding ? 0 : digit(text[i + j]);
            if (value < 0)
                return MRN_ERR_MALFORMED;
            group = group << 6 | (uint32_t)value;
        }
        if (padding && (group & (padding == 2 ? 0xffffu : 0xffu)) != 0)
            return MRN_ERR_MALFORMED; /* bits that stand for nothing must be zero */
        ret_bytes[count++] = (unsigned char)(group >> 16);
        if (padding < 2)
            ret_bytes[count++] = (unsigned char)(group >> 8);
        if (padding < 1)
            ret_bytes[count++] = (unsigned char)group;
    }
    *ret_count = count;
    return 0;
}

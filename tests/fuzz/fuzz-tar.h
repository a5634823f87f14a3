/* SPDX-License-Identifier: MIT */
/* For libFuzzer, which would else hardly ever meet a header's checksum: what it makes of
 * an archive gets checksums that fit. */
#ifndef DVOLFS_TESTS_FUZZ_FUZZ_TAR_H
#define DVOLFS_TESTS_FUZZ_FUZZ_TAR_H

#ifdef WITH_LIBFUZZER
#include "fuzz.h"

#include <stdio.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static void mend_header(uint8_t *block)
{
    unsigned sum = 0;
    char text[8];
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += block[i];
    (void)snprintf(text, sizeof(text), "%06o", sum);
    memcpy(block + 148, text, 7);
}

/* One time of eight they stay as they are. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);
    for (size_t at = 0; seed % 8 && at + 512 <= size; at += 512)
        if (memcmp(data + at + 257, "ustar", 5) == 0)
            mend_header(data + at);
    return size;
}
#endif

#endif

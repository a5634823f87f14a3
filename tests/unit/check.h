/* SPDX-License-Identifier: MIT */
/* What every test program includes: cmocka and the headers it wants first. */
#ifndef DVOLFS_TESTS_UNIT_CHECK_H
#define DVOLFS_TESTS_UNIT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif

/* normalise.h - dates, amounts, quantities and names as people write them, to one form.
 *
 * Every function answers false where the text is not exactly one such value, or could be read in
 * two ways: nothing is ever guessed. */
#ifndef MLL_NORMALISE_H
#define MLL_NORMALISE_H

#include "base.h"

/* How 03/04/2024 is to be read where both are possible. */
enum nrm_date_order { NRM_DATE_UNKNOWN = 0, NRM_DATE_DMY, NRM_DATE_MDY };

/* YYYY-MM-DD of a real calendar day, 1900 to 2099, from 2024-03-31, 31/03/2024, 31.3.24, 20240331,
 * 31 Mar 2024, March 31, 2024; a weekday, a time of day behind it are passed over. Two digits of a
 * year below 70 are 20YY. Ambiguous without an order: 03/04/2024. */
bool nrm_date(char out[11], const char *text, enum nrm_date_order order);

/* "-1234.50" from 1,234.5, 1.234,50, $12.30, RM 5, 12.30-, (12.30), 1'234.50; currency signs and
 * words around one number are passed over. More than two decimals, two numbers, a lone group of
 * three behind a point (1.234) are refused. At most 12 digits. */
#define NRM_AMOUNT_SIZE 24
bool nrm_amount(char out[NRM_AMOUNT_SIZE], const char *text);
/* The amount in hundredths. */
int64_t nrm_amount_cents(const char *amount);

/* "2", "0.534" from 2, 2x, x 2, 2.0, 0,534. */
bool nrm_quantity(char out[NRM_AMOUNT_SIZE], const char *text);

/* Trims, turns runs of white space and control characters into one space; in place. */
void nrm_text(char *text);

#endif

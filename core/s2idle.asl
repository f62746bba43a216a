/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SSDT of VMs with --s2idle: a low-power idle device (PNP0D80) whose methods tell devices/s2idle.c
 * when the guest goes to sleep and when it is awake again.
 */
DefinitionBlock ("s2idle.aml", "SSDT", 2, "TORPOR", "TORPS2ID", 0x00000001)
{
	Scope (\_SB)
	{
		Device (LPID)
		{
			Name (_HID, "TORP0002")
			Name (_CID, EisaId ("PNP0D80"))
			OperationRegion (S2IR, SystemIO, 0x0610, 0x01)
			Field (S2IR, ByteAcc, NoLock, Preserve)
			{
				SLPR, 8
			}
			Method (_DSM, 4, Serialized)
			{
				If ((Arg0 == ToUUID ("c4eb40a0-6cd2-11e2-bcfd-0800200c9a66")))
				{
					Switch (ToInteger (Arg2))
					{
						Case (0)
						{
							/* 0, 1, 5 and 6 */
							Return (Buffer (One) { 0x63 })
						}
						Case (1)
						{
							/* No device keeps it from the state. */
							Return (Package (0x00) {})
						}
						Case (5)
						{
							SLPR = One
						}
						Case (6)
						{
							SLPR = Zero
						}
					}
				}
				Return (Buffer (One) { 0x00 })
			}
		}
	}
}
